"""Whatever comes with a good signature ends in one row, byte for byte, and never in an unforeseen error."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from multidict import CIMultiDict

from service import intake
from service.errors import HoldfastError
from service.intake import Receipt
from service.resources import Resources
from service.zendesk.body import Unreadable
from service.zendesk.payloads import Ignored, parse
from service.zendesk.signature import ACCOUNT_ID, INVOCATION_ID, WEBHOOK_ID

Headers = CIMultiDict[str]
Case = tuple[Headers, bytes]

# Lone surrogates, NULs and all planes included; the words make the interesting branches likely.
WORDS = [
    "",
    " ",
    "0",
    "\0",
    "\ud800",
    "\udcff",
    "one",
    "https://a/b",
    "zen:ticket:1",
    "1e400",
    "2026-02-30",
    "'\"\\",
]
texts = st.text(st.characters(), max_size=40) | st.sampled_from(WORDS)
numbers = st.integers() | st.integers(10**29, 10**31) | st.floats()
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)
KEYS = [
    "id",
    "ticketId",
    "ticket",
    "subject",
    "title",
    "from_email",
    "from_name",
    "received_at",
    "account_id",
    "webhook_id",
    "comment_id",
    "attachments",
    "type",
    "detail",
    "event",
    "time",
    "tags",
]
FILE_KEYS = ["url", "content_url", "filename", "fileName", "file_name", "content_type", "size"]
files = st.dictionaries(st.sampled_from(FILE_KEYS) | texts, scalars, max_size=6)
dates = st.datetimes().map(str) | st.integers(-(10**14), 10**14).map(str) | texts
types = st.sampled_from(
    [f"zen:event-type:ticket.{kind}" for kind in ("created", "comment_added", "attachment_linked_to_comment")]
)
objects = st.builds(
    lambda fields, attachments, more: fields | attachments | more,
    st.dictionaries(st.sampled_from(KEYS) | texts, values, max_size=8),
    st.just({}) | st.fixed_dictionaries({"attachments": st.lists(files | scalars, max_size=4)}),
    st.fixed_dictionaries({}, optional={"received_at": dates, "type": types, "webhook_id": texts | numbers}),
)
with_ticket = st.builds(
    lambda fields, ticket: {**fields, "ticket_id": ticket}, objects, st.integers(1, 10**26) | texts | values
)
written = st.builds(
    lambda value, indent, ascii_only, encoding: json.dumps(
        value, indent=indent, ensure_ascii=ascii_only
    ).encode(encoding, "surrogatepass"),
    with_ticket,
    st.none() | st.integers(0, 2),
    st.booleans(),
    st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32"]),
)
header_texts = st.text(st.characters(exclude_characters="\r\n\0"), max_size=60) | st.sampled_from(WORDS[3:])
names = st.sampled_from([ACCOUNT_ID, INVOCATION_ID, WEBHOOK_ID, "Authorization", "cookie", "X-Other"])
headers = st.lists(st.tuples(names, header_texts), max_size=6).map(Headers)


def damaged(body: bytes, cuts: list[tuple[int, bytes]]) -> bytes:
    for place, piece in cuts:
        place %= len(body) + 1
        body = body[:place] + piece + body[place + len(piece) :]
    return body


broken = st.builds(
    damaged, written, st.lists(st.tuples(st.integers(0, 10**4), st.binary(max_size=3)), max_size=4)
)


async def try_many(strategy: st.SearchStrategy[Case], check: Callable[[Case], Awaitable[None]]) -> None:
    """Run `check` on this loop for many examples, which hypothesis draws in a thread: it knows no loop."""
    loop = asyncio.get_running_loop()
    given_up = threading.Event()

    @examples(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(strategy)
    def run(case: Case) -> None:
        assert not given_up.is_set()
        asyncio.run_coroutine_threadsafe(_awaited(check(case)), loop).result(60)

    try:
        await asyncio.to_thread(run)
    finally:
        given_up.set()


async def _awaited(work: Awaitable[None]) -> None:
    await work


async def forget(database: asyncpg.Connection) -> None:
    await database.execute(
        "WITH a AS (DELETE FROM attachments), q AS (DELETE FROM quarantined_webhooks) DELETE FROM incoming_emails"
    )


async def kept(database: asyncpg.Connection) -> list[tuple[str, int, bytes]]:
    """Return all rows, as the receipt names them."""
    rows = await database.fetch(
        "SELECT 'accepted' AS status, id, raw_body FROM incoming_emails"
        " UNION ALL SELECT 'quarantined', id, raw_body FROM quarantined_webhooks"
    )
    return [tuple(row) for row in rows]


def readable(body: bytes) -> Any:
    try:
        return parse(body)
    except Unreadable:
        return None


@pytest.mark.parametrize(
    "bodies", [written, broken, st.binary(max_size=200)], ids=["json", "broken", "bytes"]
)
async def test_any_body_under_any_headers_is_one_row_with_its_bytes_and_a_repeat_adds_none(
    bodies: st.SearchStrategy[bytes], res: Resources, database: asyncpg.Connection
) -> None:
    async def check(case: Case) -> None:
        sent, body = case
        await forget(database)
        parsed = readable(body)

        receipt = await intake.accept(res, sent, body)
        rows = await kept(database)
        again = await intake.accept(res, sent, body)

        if isinstance(parsed, Ignored):
            assert (receipt, again, rows) == (Receipt("ignored"), Receipt("ignored"), [])
            return
        assert rows == [(receipt.status, receipt.number, body)]
        assert receipt.status == ("accepted" if parsed else "quarantined")
        assert again.number == receipt.number
        assert again.status == ("duplicate" if parsed else "quarantined")
        assert await kept(database) == rows

    await try_many(st.tuples(headers, bodies), check)


async def test_two_bodies_are_both_kept_whatever_they_and_their_headers_share(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Keys may collide, by accident of a template or by malice: nothing that was answered is missing."""
    few = st.sampled_from(["one", "two", "\udcff", ""])
    shared = st.lists(st.tuples(st.sampled_from([INVOCATION_ID, WEBHOOK_ID, ACCOUNT_ID]), few)).map(Headers)
    small = st.builds(
        lambda ticket, webhook, subject: json.dumps(
            {"ticket_id": ticket, "webhook_id": webhook, "subject": subject}
        ).encode(),
        st.sampled_from([1, 2, ""]),
        st.sampled_from(["one", "two", "", "\udcff", "\ufffd"]),
        st.sampled_from(["a", "b"]),
    )
    cases: st.SearchStrategy[Any] = st.tuples(
        st.lists(shared, min_size=6, max_size=6), st.lists(small | st.sampled_from([b"?", b""]), max_size=6)
    )

    async def check(case: Any) -> None:
        sent, bodies = case
        await forget(database)

        receipts = await asyncio.gather(
            *(intake.accept(res, each, body) for each, body in zip(sent, bodies, strict=False))
        )

        assert {body for _, _, body in await kept(database)} == set(bodies)
        assert None not in {receipt.number for receipt in receipts}

    await try_many(cases, check)


@pytest.mark.parametrize("name", ["Authorization", "authorization", "COOKIE", "Proxy-Authorization"])
@pytest.mark.parametrize("body", [b'{"ticket_id": 1}', b"?"])
async def test_no_secret_of_a_header_is_kept_however_often_it_is_sent(
    body: bytes, name: str, res: Resources, database: asyncpg.Connection
) -> None:
    await intake.accept(res, Headers([(name, "hidden"), ("X-Other", "kept"), (name, "hidden too")]), body)

    table = "incoming_emails" if body.startswith(b"{") else "quarantined_webhooks"
    raw_headers = json.loads(await database.fetchval(f"SELECT raw_headers FROM {table}"))
    assert raw_headers == [[name, "[redacted]"], ["X-Other", "kept"], [name, "[redacted]"]]


async def test_a_closed_database_is_an_error_that_a_sender_may_try_again(
    res: Resources, database: asyncpg.Connection
) -> None:
    """As seen by a caller: of our own kind, with a code, and nothing else."""
    await database.execute("ALTER TABLE incoming_emails RENAME TO hidden")
    try:
        with pytest.raises(HoldfastError) as caught:
            await intake.accept(res, Headers(), b'{"ticket_id": 1}')
    finally:
        await database.execute("ALTER TABLE hidden RENAME TO incoming_emails")

    assert caught.value.code == "database_unavailable"
    assert (await intake.accept(res, Headers(), b'{"ticket_id": 1}')).status == "accepted"
