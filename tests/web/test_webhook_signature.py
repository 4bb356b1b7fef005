"""Zendesk's signature lets a webhook in, and nothing else does."""

import asyncio
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from service.zendesk.signature import ACCOUNT_ID, INVOCATION_ID, SIGNATURE, TIMESTAMP, WEBHOOK_ID, sign
from tests.conftest import Server, serving
from tests.support.connections import metric
from tests.support.rows import bodies, count_saved
from tests.support.webhooks import IGNORED, SECRET, TICKET, no_traceback, post, problem, signed

__all__ = ["no_traceback"]  # a fixture for each test here


def wrong_order() -> dict[str, str | None]:
    timestamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {TIMESTAMP: timestamp, SIGNATURE: sign(SECRET, TICKET.decode(), timestamp.encode())}


def respelt() -> dict[str, str | None]:
    """Change the padding bits at the end of the signature."""
    headers = signed(TICKET)
    signature = headers[SIGNATURE] or ""
    return {**headers, SIGNATURE: f"{signature[:-2]}{chr(ord(signature[-2]) + 1)}="}


def moved(length: int) -> dict[str, str | None]:
    """Move the start of the signed body into the timestamp, so that the rest of the body is TICKET."""
    timestamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    piece = '{"a": "bcdefgh'[:length]
    return {TIMESTAMP: timestamp + piece, SIGNATURE: sign(SECRET, timestamp, piece.encode() + TICKET)}


REFUSED: dict[str, tuple[Mapping[str, str | None], str]] = {
    "no signature": ({SIGNATURE: None}, "signature_missing"),
    "an empty signature": ({SIGNATURE: ""}, "signature_missing"),
    "no timestamp": ({TIMESTAMP: None}, "timestamp_missing"),
    "neither": ({SIGNATURE: None, TIMESTAMP: None}, "signature_missing"),
    "another secret": (signed(TICKET, secret="another"), "signature_mismatch"),
    "an empty secret": (signed(TICKET, secret=""), "signature_mismatch"),
    "body before timestamp": (wrong_order(), "signature_mismatch"),
    "another body": (signed(b'{"ticket_id": 2}'), "signature_mismatch"),
    "the body written anew": (signed(b'{"ticket_id":1}'), "signature_mismatch"),
    "another timestamp": ({TIMESTAMP: "2026-01-01T00:00:00Z"}, "signature_mismatch"),
    "no base64": ({SIGNATURE: "ü" * 44}, "signature_mismatch"),
    "another spelling of the base64": (respelt(), "signature_mismatch"),
    "a timestamp with a piece of the body": (moved(1), "timestamp_malformed"),
    "a timestamp with most of the body": (moved(10), "timestamp_malformed"),
    "a long timestamp": (signed(TICKET, timestamp="9" * 41), "timestamp_malformed"),
    "a timestamp of other bytes": (signed(TICKET, timestamp="opaque \u20ac"), "timestamp_malformed"),
    "a long signature": ({SIGNATURE: "A" * 4000}, "signature_mismatch"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_unsigned_webhook_is_refused_with_a_reason_and_not_saved(
    name: str, client: Server, database: asyncpg.Connection
) -> None:
    headers, code = REFUSED[name]
    counted = f'holdfast_webhooks_total{{outcome="{code}"}}'
    before = await metric(client, counted)

    answer = await post(client, TICKET, **headers)

    assert answer.status == 401
    assert problem(answer)["code"] == code
    assert SECRET.encode() not in answer.body
    assert re.search(rb"[A-Za-z0-9+/]{43}=", answer.body) is None, "the expected signature"
    assert await count_saved(database) == 0
    assert await metric(client, counted) == before + 1


@pytest.mark.parametrize("seconds", [-7200, 7200, -13618, -30 * 86400])
@pytest.mark.parametrize("body", [TICKET, b"?", IGNORED])
async def test_valid_signature_with_old_or_future_timestamp_is_saved_as_late(
    seconds: int, body: bytes, client: Server, database: asyncpg.Connection
) -> None:
    """Deduplication has no time window: it would only lose delayed webhooks."""
    counted = "holdfast_late_webhooks_total"
    before = await metric(client, counted)
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    headers = signed(body, timestamp=at.isoformat())

    with capture_logs() as logs:
        answers = [await post(client, body, **headers) for _ in range(2)]

    told = [line for line in logs if line["event"] == "webhook_received"]
    assert [answer.status for answer in answers] == [200, 200]
    assert [line["late"] for line in told] == [True, True]
    assert await metric(client, counted) == before + 2
    assert await late(database) == [True]


async def late(database: asyncpg.Connection) -> list[bool]:
    """Return the late mark of each saved row."""
    tables = ("incoming_emails", "quarantined_webhooks", "ignored_webhooks")
    rows = await database.fetch(" UNION ALL ".join(f"SELECT late FROM {table}" for table in tables))
    return [row["late"] for row in rows]


@pytest.mark.parametrize("timestamp", [None, "yesterday", "20260428"])
async def test_recent_or_unreadable_timestamp_is_not_late(
    timestamp: str | None, client: Server, database: asyncpg.Connection
) -> None:
    await post(client, TICKET, **signed(TICKET, timestamp=timestamp))

    assert await late(database) == [False]


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("body", [TICKET, b"?", IGNORED])
async def test_one_signature_is_one_invocation_under_any_id_header(
    body: bytes, *, at_once: bool, client: Server, database: asyncpg.Connection
) -> None:
    """An attacker can repeat a captured request under other headers: headers are not signed."""
    headers = signed(body)
    others: list[dict[str, str | None]] = [
        {INVOCATION_ID: None if number == 7 else f"id {number}", WEBHOOK_ID: str(number), ACCOUNT_ID: "1"}
        for number in range(20)
    ]

    sending = [post(client, body, **headers, **other) for other in others]
    answers = await asyncio.gather(*sending) if at_once else [await each for each in sending]

    told = [answer.json() for answer in answers]
    first, *_ = [answer for answer in told if answer["status"] != "duplicate"]
    assert {answer.status for answer in answers} == {200}
    assert all(answer in (first, {**first, "status": "duplicate"}) for answer in told)
    assert await count_saved(database) == 1


async def test_one_signature_is_one_invocation_in_all_web_processes(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with serving(settings, zendesk) as one, serving(settings, zendesk) as other:
        for _ in range(10):
            headers = signed(TICKET, timestamp=datetime.now(UTC).isoformat())
            sent = [
                post(client, TICKET, **headers, **{INVOCATION_ID: str(uuid.uuid4())})
                for client in (one, other)
            ]
            answers = [answer.json() for answer in await asyncio.gather(*sent)]

            assert sorted(answer["status"] for answer in answers) == ["accepted", "duplicate"]
            assert len({answer["email_id"] for answer in answers}) == 1
    assert await count_saved(database) == 10


async def test_same_body_signed_at_another_time_is_another_invocation(
    client: Server, database: asyncpg.Connection
) -> None:
    for timestamp in ("2026-11-29T06:00:00Z", "2026-11-29T06:00:01Z"):
        await post(client, TICKET, **signed(TICKET, timestamp=timestamp))

    assert await bodies(database) == [TICKET, TICKET]


@pytest.mark.parametrize("secret", ["first", "second", "third"])
async def test_each_of_several_secrets_is_accepted(
    secret: str, settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    secrets = tuple(SecretStr(secret) for secret in ("first", "second", "third"))
    async with serving(settings.model_copy(update={"zendesk_webhook_secrets": secrets}), zendesk) as client:
        answer = await post(client, TICKET, **signed(TICKET, secret=secret))

    assert answer.status == 200


async def test_without_secret_all_webhooks_are_refused(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    for secrets in ((), (SecretStr(""), SecretStr(" "))):
        async with serving(
            settings.model_copy(update={"zendesk_webhook_secrets": secrets}), zendesk
        ) as client:
            answers = [await post(client, TICKET, **signed(TICKET, secret=secret)) for secret in ("", " ")]

        assert [answer.status for answer in answers] == [401, 401]
