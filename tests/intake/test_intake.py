"""Any request with a valid signature becomes one row, byte for byte, and never an unexpected error."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from hypothesis import strategies as st

from service import intake
from service.errors import HoldfastError, Transient
from service.intake import IntakeResult
from service.postgres.batch import Batcher
from service.resources import Resources
from service.zendesk.body import Unreadable
from service.zendesk.payloads import Ignored, parse
from service.zendesk.signature import ACCOUNT_ID, INVOCATION_ID, WEBHOOK_ID
from tests.support.any_webhook import Case, Headers, broken, headers, try_many, written
from tests.support.rows import delete_emails
from tests.support.webhooks import IGNORED, TICKET


async def kept(database: asyncpg.Connection) -> list[tuple[str, int, bytes]]:
    """Return all rows by the status of their result."""
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
async def test_any_request_is_one_row_with_its_bytes_and_a_repetition_adds_none(
    bodies: st.SearchStrategy[bytes], res: Resources, database: asyncpg.Connection
) -> None:
    async def check(case: Case) -> None:
        sent, body = case
        await delete_emails(database)
        parsed = readable(body)

        receipt = await intake.accept(res, sent, body)
        rows = await kept(database)
        again = await intake.accept(res, sent, body)

        if isinstance(parsed, Ignored):
            assert (receipt, again, rows) == (IntakeResult("ignored"), IntakeResult("ignored"), [])
            return
        assert rows == [(receipt.status, receipt.number, body)]
        assert receipt.status == ("accepted" if parsed else "quarantined")
        assert again.number == receipt.number
        assert again.status == ("duplicate" if parsed else "quarantined")
        assert await kept(database) == rows

    await try_many(st.tuples(headers, bodies), check)


async def test_two_bodies_are_both_stored_whatever_keys_they_share(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Keys may collide by accident or malice; no request with a 2xx is lost."""
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
        await delete_emails(database)

        receipts = await asyncio.gather(
            *(intake.accept(res, each, body) for each, body in zip(sent, bodies, strict=False))
        )

        assert {body for _, _, body in await kept(database)} == set(bodies)
        assert None not in {receipt.number for receipt in receipts}

    await try_many(cases, check)


@pytest.mark.parametrize("name", ["Authorization", "authorization", "COOKIE", "Proxy-Authorization"])
@pytest.mark.parametrize("body", [b'{"ticket_id": 1}', b"?"])
async def test_no_secret_of_a_header_is_stored(
    body: bytes, name: str, res: Resources, database: asyncpg.Connection
) -> None:
    await intake.accept(res, Headers([(name, "hidden"), ("X-Other", "kept"), (name, "hidden too")]), body)

    table = "incoming_emails" if body.startswith(b"{") else "quarantined_webhooks"
    raw_headers = json.loads(await database.fetchval(f"SELECT raw_headers FROM {table}"))
    assert raw_headers == [[name, "[redacted]"], ["X-Other", "kept"], [name, "[redacted]"]]


@pytest.mark.parametrize(
    ("header", "account"),
    [("1", "1"), ("1, 1", "1"), (" 1,1 ", "1"), ("1, 2", "1, 2"), ("", None), (" , ", None)],
)
async def test_an_account_that_a_proxy_joined_is_the_same_account(
    header: str, account: str | None, res: Resources, database: asyncpg.Connection
) -> None:
    await intake.accept(res, Headers([(ACCOUNT_ID, header)]), b'{"ticket_id": 1, "account_id": "ACME"}')

    assert await database.fetchval("SELECT account_id FROM incoming_emails") == account


async def test_a_closed_database_is_a_transient_error(res: Resources, database: asyncpg.Connection) -> None:
    """The caller gets one of our own errors, with a code."""
    await database.execute("ALTER TABLE incoming_emails RENAME TO hidden")
    try:
        with pytest.raises(HoldfastError) as caught:
            await intake.accept(res, Headers(), b'{"ticket_id": 1}')
    finally:
        await database.execute("ALTER TABLE hidden RENAME TO incoming_emails")

    assert caught.value.code == "database_unavailable"
    assert (await intake.accept(res, Headers(), b'{"ticket_id": 1}')).status == "accepted"


@pytest.mark.parametrize("body", [TICKET, IGNORED])
async def test_a_webhook_waits_no_longer_than_its_budget_for_a_statement_of_others(
    body: bytes, res: Resources
) -> None:
    async def stuck(*_: object) -> Any:
        await asyncio.Event().wait()

    batch = Batcher(stuck)
    brief = res.settings.model_copy(update={"database_seconds": 0.05})

    with pytest.raises(Transient) as slow:
        await intake.accept(replace(res, batch=batch, settings=brief), {}, body)
    await batch.close(0)

    assert slow.value.code == "database_slow"
