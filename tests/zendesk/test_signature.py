"""Only a request that Zendesk signed with a secret of ours is accepted, and marked if its time is late."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from service.config.settings import PUBLIC_TEST_SECRET
from service.errors import Rejected
from service.zendesk.signature import (
    MOST_TIMESTAMP,
    SIGNATURE,
    TIMESTAMP,
    Verified,
    proof_of,
    read_time,
    sign,
    verify,
)

NOW = datetime(2026, 4, 28, 12, 0, tzinfo=UTC)
BODY = b'{"ticket_id": "35436"}'
SECRET = "current"
TIME = "2026-04-28T11:59:30Z"

# https://developer.zendesk.com/documentation/webhooks/verifying/
VECTOR_TIME = "1531420618"
VECTOR_BODY = b'{"event_type": "foo.bar","data": {"key": "value"}}'
VECTOR_SIGNATURE = "qtmu3iClLKujnujOBkwe7yjI34o5CzsLD04Uy4LbE2A="

SOON = Verified(timedelta(seconds=30), late=False)

texts = st.text(st.characters())  # including lone surrogates


def headers(signature: str | None, timestamp: str | None = TIME) -> CIMultiDict[str]:
    given = {SIGNATURE: signature, TIMESTAMP: timestamp}
    return CIMultiDict({name: value for name, value in given.items() if value is not None})


def check(sent: CIMultiDict[str], body: bytes = BODY, *, secrets: tuple[str, ...] = (SECRET,)) -> Verified:
    return verify(proof_of(sent), body, secrets=secrets, now=NOW, tolerance=timedelta(hours=1))


def refusal(sent: CIMultiDict[str], body: bytes = BODY, *, secrets: tuple[str, ...] = (SECRET,)) -> Rejected:
    with pytest.raises(Rejected) as caught:
        check(sent, body, secrets=secrets)
    assert caught.value.status == 401
    return caught.value


def test_the_published_vector_verifies() -> None:
    """Our signature of Zendesk's own example equals Zendesk's."""
    now = datetime.fromtimestamp(int(VECTOR_TIME) + 5, UTC)

    verified = verify(
        proof_of(headers(VECTOR_SIGNATURE, VECTOR_TIME)),
        VECTOR_BODY,
        secrets=[PUBLIC_TEST_SECRET],
        now=now,
        tolerance=timedelta(minutes=5),
    )

    assert sign(PUBLIC_TEST_SECRET, VECTOR_TIME, VECTOR_BODY) == VECTOR_SIGNATURE
    assert verified == Verified(timedelta(seconds=5), late=False)


def test_body_before_timestamp_is_refused() -> None:
    """An older page of Zendesk's documentation had the order reversed."""
    signature = sign(SECRET, "", BODY + TIME.encode())

    assert refusal(headers(signature)).code == "signature_mismatch"


@pytest.mark.parametrize(
    ("body", "timestamp"),
    [
        (BODY + b" ", TIME),
        (b'{"ticket_id":"35436"}', TIME),
        (b"", TIME),
        (BODY, "2026-04-28T11:59:31Z"),
    ],
)
def test_any_change_is_refused(body: bytes, timestamp: str) -> None:
    """One changed byte of the body or of the timestamp is enough."""
    assert refusal(headers(sign(SECRET, TIME, BODY), timestamp), body).code == "signature_mismatch"


@pytest.mark.parametrize("signer", ["old", "current", "next"])
def test_every_secret_of_a_rotation_verifies(signer: str) -> None:
    """During a rotation, requests with either secret are accepted."""
    assert check(headers(sign(signer, TIME, BODY)), secrets=("old", "current", "next")) == SOON


@pytest.mark.parametrize("secrets", [(), ("",), ("", "  ")])
def test_an_empty_secret_verifies_nothing(secrets: tuple[str, ...]) -> None:
    """Without a secret every request is refused, even one that is signed with an empty key."""
    for key in ("", "  "):
        assert refusal(headers(sign(key, TIME, BODY)), secrets=secrets).code == "signature_mismatch"


@pytest.mark.parametrize(
    ("signature", "timestamp", "code"),
    [
        (None, TIME, "signature_missing"),
        ("", TIME, "signature_missing"),
        (None, None, "signature_missing"),
        ("x", None, "timestamp_missing"),
        ("x", "", "timestamp_missing"),
        ("x", TIME, "signature_mismatch"),
        (VECTOR_SIGNATURE, TIME, "signature_mismatch"),
        (sign(SECRET, TIME, BODY).rstrip("="), TIME, "signature_mismatch"),
        (sign(SECRET, TIME, BODY) + "\n", TIME, "signature_mismatch"),
        (sign(SECRET, TIME, BODY).lower(), TIME, "signature_mismatch"),
        (f"sha256={sign(SECRET, TIME, BODY)}", TIME, "signature_mismatch"),
        ("ß" * 44, TIME, "signature_mismatch"),
        ("\udcff" * 44, TIME, "signature_mismatch"),
        ("\ud800", TIME, "signature_mismatch"),
        ("\0", TIME, "signature_mismatch"),
        ("A" * 100_000, TIME, "signature_mismatch"),
        ("x", "\udcff\ud800", "signature_mismatch"),
        ("x", "9" * 100_000, "signature_mismatch"),
    ],
)
def test_malformed_headers_are_refused(signature: str | None, timestamp: str | None, code: str) -> None:
    """Each has its code, and none raises anything but a refusal."""
    assert refusal(headers(signature, timestamp)).code == code


def test_header_names_are_case_insensitive() -> None:
    """A proxy may write them in lower case."""
    sent = CIMultiDict({SIGNATURE.lower(): sign(SECRET, TIME, BODY), TIMESTAMP.upper(): TIME})

    assert check(sent) == SOON


def test_stray_bytes_are_signed_unchanged() -> None:
    """aiohttp keeps a byte that is not UTF-8 as a lone surrogate; the signature covers the byte."""
    assert sign("\udcff", "\udce9", b"x") == sign("\udcff", "", b"\xe9x")


@pytest.mark.parametrize(
    ("timestamp", "skew_seconds"),
    [
        ("2026-04-28T10:59:59Z", 3601),
        ("2026-04-28T13:00:01Z", -3601),
        (VECTOR_TIME, 245_956_982),
        ("0001-01-01T00:00:00Z", 63_912_974_400),
        ("9999-12-31T23:59:59Z", -251_624_923_199),
    ],
)
def test_a_time_outside_the_tolerance_is_accepted_as_late(timestamp: str, skew_seconds: int) -> None:
    """A signed request is kept at any time; another check detects repetitions."""
    verified = check(headers(sign(SECRET, timestamp, BODY), timestamp))

    assert verified == Verified(timedelta(seconds=skew_seconds), late=True)


@pytest.mark.parametrize("timestamp", ["2026-04-28T11:00:00Z", "2026-04-28T13:00:00Z"])
def test_a_time_at_the_tolerance_is_not_late(timestamp: str) -> None:
    """The limit itself is tolerated, in the past and in the future."""
    verified = check(headers(sign(SECRET, timestamp, BODY), timestamp))

    assert verified.skew is not None
    assert abs(verified.skew) == timedelta(hours=1)
    assert not verified.late


def test_a_forged_signature_learns_nothing_about_its_time() -> None:
    """The time is only checked after the signature."""
    assert refusal(headers("x", VECTOR_TIME)).code == "signature_mismatch"


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-04-28T12:00:00Z", NOW),
        ("2026-04-28t12:00:00z", NOW),
        ("2026-04-28T12:00:00", NOW),
        ("2026-04-28T12:00Z", NOW),
        ("2026-04-28 12:00:00 UTC", NOW),
        ("2026-04-28 14:00:00 +0200", NOW),
        ("2026-04-28T14:00:00+02:00", NOW),
        ("2026-04-28T06:30:00-05:30", NOW),
        ("2026-04-28T14:00:00+02", NOW),
        ("20260428T120000Z", NOW),
        ("2026-04-28T12:00:00.5Z", NOW + timedelta(milliseconds=500)),
        ("2026-04-28T12:00:00,25Z", NOW + timedelta(milliseconds=250)),
        ("2026-04-28T12:00:00.123456Z", NOW + timedelta(microseconds=123_456)),
        ("2026-04-28T12:00:00.123456789Z", NOW + timedelta(microseconds=123_456)),
        ("1777377600", NOW),
        ("1777377600.5", NOW + timedelta(milliseconds=500)),
        ("1777377600250", NOW + timedelta(milliseconds=250)),
    ],
)
def test_times_are_read_in_every_spelling(text: str, time: datetime) -> None:
    """ISO-8601 with and without zone and fraction, seconds and milliseconds."""
    assert read_time(text) == time


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "Tue, 28 Apr 2026 12:00:00 GMT",
        "Tue Apr 28 12:00:00 CEST 2026",
        "99999-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "2026-02-31T00:00:00Z",
        "2026-04-28T12:00:60Z",
        "2026-04-28T12:00:00+99:99",
        "9999-12-31T23:59:59-14:00",
        "0001-01-01T00:00:00+14:00",
        "2026-04-28",
        "20260428",
        "20260428120000",
        "-1",
        "1e400",
        "9" * MOST_TIMESTAMP,
    ],
)
def test_an_unreadable_signed_time_is_accepted(text: str) -> None:
    """Zendesk calls the timestamp an opaque string, so the signature decides."""
    assert read_time(text) is None
    assert check(headers(sign(SECRET, text, BODY), text)) == Verified(None, late=False)


@pytest.mark.parametrize(
    "text",
    [
        "9" * (MOST_TIMESTAMP + 1),
        "9" * 100_000,
        "١٧٧٧٣٧٧٦٠٠",
        "\udcff\ud800\0",
        " ",
        " 1777377600",
        "1777377600 ",
        "1777377600\n",
        '1777377600{"a":1}',
        '2026-04-28T12:00:00Z{"ticket_id":',
        "2026-04-28T12:00:00Zpayload",
        "2026-04-28T12:00:00Z<xml>",
        "2026-04-28T12:00:00Z\t",
        "payload=%7B",
        "a\u00a0b",
    ],
)
def test_a_timestamp_of_impossible_form_is_refused_before_the_body_is_read(text: str) -> None:
    """Even with a valid signature: bytes of the body may have been moved into it."""
    with pytest.raises(Rejected) as caught:
        proof_of(headers(sign(SECRET, text, BODY), text))

    assert (caught.value.status, caught.value.code) == (401, "timestamp_malformed")


BODIES = [
    b'{"ticket_id": "35436", "subject": "2026"}',
    b' \r\n{"ticket_id": 1}',
    b'\xef\xbb\xbf{"ticket_id": 1}',
    b"payload=%7B%22ticket_id%22%3A1%7D",
    b"ticket_id=1029&subject=Rechnung",
    b"Z=1",
    b"<ticket><id>1</id></ticket>",
    b"not JSON at all",
    '{"ticket_id": 1}'.encode("utf-16"),
    b"",
]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(
    "timestamp", [TIME, "2026-04-28T11:59:30.123456Z", "2026-04-28T13:59:30+02:00", VECTOR_TIME]
)
def test_no_byte_can_be_moved_between_timestamp_and_body(timestamp: str, body: bytes) -> None:
    """Of all divisions of the signed bytes, only the original one is accepted."""
    whole, signature = timestamp.encode() + body, sign(SECRET, timestamp, body)
    let_in = []
    for length in range(1, len(whole)):
        sent = headers(signature, whole[:length].decode("utf-8", "surrogateescape"))
        with suppress(Rejected):
            check(sent, whole[length:])
            let_in.append(length)

    if body:
        assert let_in == [len(timestamp)]
    else:
        assert check(headers(signature, timestamp), b"")


@given(timestamp=st.text("0123456789TZ:-. UTCaz+", min_size=1, max_size=45), body=st.binary(max_size=60))
@settings(deadline=None)
def test_at_most_one_division_of_the_signed_bytes_is_accepted(timestamp: str, body: bytes) -> None:
    whole, signature = timestamp.encode() + body, sign(SECRET, timestamp, body)
    let_in = []
    for length in range(1, len(whole) + 1):
        with suppress(Rejected, UnicodeDecodeError):
            check(headers(signature, whole[:length].decode()), whole[length:])
            let_in.append(length)

    assert len(let_in) <= 1


def test_signature_and_timestamp_alone_identify_an_invocation() -> None:
    one = headers(sign(SECRET, TIME, BODY))
    other = headers(sign(SECRET, TIME, BODY + b" "))
    again = CIMultiDict({**one, "X-Zendesk-Webhook-Invocation-Id": "another"})

    assert proof_of(one).digest == proof_of(again).digest
    assert proof_of(one).digest != proof_of(other).digest


@given(signature=st.none() | texts, timestamp=st.none() | texts, body=st.binary(), secrets=st.lists(texts))
@settings(deadline=None)
def test_garbage_is_refused_and_raises_nothing_else(
    signature: str | None, timestamp: str | None, body: bytes, secrets: list[str]
) -> None:
    """With any headers, body and secrets the result is 401 and no other exception."""
    assert refusal(headers(signature, timestamp), body, secrets=tuple(secrets)).status == 401


@given(
    timestamp=texts.filter(bool) | st.from_regex(r"[0-9]{8,14}|[0-9-]{10}T[0-9:.]{8}[+-][0-9:]{5}"),
    body=st.binary(),
)
@settings(deadline=None)
def test_our_signature_is_accepted_unless_its_timestamp_is_no_time(timestamp: str, body: bytes) -> None:
    """A valid signature is accepted, or refused for its timestamp alone."""
    try:
        check(headers(sign(SECRET, timestamp, body), timestamp), body)
    except Rejected as error:
        assert error.code == "timestamp_malformed"  # noqa: PT017 either outcome is right, but no third one
