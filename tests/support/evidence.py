"""E-mails as the service records them, with files, messages, ends of jobs and acts: for tests of the evidence log."""

from datetime import timedelta
from typing import Any

import asyncpg

from service.evidence import later, sequence
from service.evidence.verify import Verification, verify
from service.evidence.work import make_head
from service.jobs import attempts, messages, retries
from service.jobs.arrival import Arrival, receive
from service.jobs.attachments import FileUpdate, mark
from service.jobs.attempts import Claim, ClaimRequest, Failure, Settlement
from service.jobs.messages import KeptComment, SavedOriginal
from service.jobs.tickets import TicketKey
from service.jobs.waiting import Job
from service.operate import dismiss
from service.postgres.evidence_tables import EvidenceEntry
from service.resources import Resources
from service.zendesk.messages import CommentMessage, Person
from tests.support.messages import put
from tests.support.rows import NOON

ACCOUNT = "1"


def arrival(number: int, **columns: Any) -> Arrival:
    """Make the first webhook of an e-mail with one file."""
    values = {
        "idempotency_key": f"key-{number}",
        "zendesk_ticket_id": str(4000 + number),
        "comment_id": str(number),
        "account_id": ACCOUNT,
        "raw_body": b'{"number": %d}' % number,
        "raw_headers": [["X-Number", str(number)]],
        "attachment_urls": [],
        **columns,
    }
    file = {
        "position": 0,
        "source_url": f"https://files.example/{number}",
        "file_name": f"invoice {number}.pdf",
        "declared_type": None,
        "declared_size": None,
    }
    return Arrival(values, [file])


async def add_whole(res: Resources, number: int, *, fails: bool = False) -> int:
    """Receive an e-mail, store its file and message, and end its job; return its id."""
    async with res.engine.connect() as conn:
        email_id = (await receive(conn, [arrival(number)]))[0].email_id or 0
        claim = (await attempts.claim(conn, [ClaimRequest(Job(email_id, 1), "w", timedelta(hours=1))]))[0]
        assert claim is not None
        stored = await put(res, b"%%PDF-1.4 invoice %d" % number, "invoice.pdf")
        await mark(conn, [FileUpdate(claim.fencing_token, 0, "stored", stored)])
        await keep_message(res, email_id, number)
        await settle(res, claim, fails=fails)
    return email_id


async def settle(res: Resources, claim: Claim, *, fails: bool = False) -> None:
    failure = Failure("gone", "It is gone.") if fails else None
    async with res.engine.connect() as conn:
        await attempts.settle(conn, [Settlement(claim, "failed" if fails else "completed", failure)])


async def keep_message(res: Resources, email_id: int, number: int, text: str = "See the invoice.") -> None:
    """Keep the comment of an e-mail, and its original."""
    record = b'{"id": %d, "text": "%s"}' % (number, text.encode())
    comment = CommentMessage(
        comment_id=str(number),
        audit_id="7",
        created_at=NOON,
        channel="email",
        is_email=True,
        is_by_agent=False,
        direction="inbound",
        public=True,
        sender=Person("Ann", "ann@customer.example"),
        to=(),
        cc=(),
        message_id="<one@customer.example>",
        text=text,
        html=None,
        files=(),
        record=record,
        is_redacted=False,
    )
    ticket = TicketKey(ACCOUNT, str(4000 + number))
    kept = KeptComment(comment, await put(res, record), email_id)
    original = await put(res, b"Subject: Invoice %d\r\n\r\nHello\r\n" % number)
    async with res.engine.connect() as conn:
        await conn.exec_driver_sql(
            "INSERT INTO tickets (account_id, ticket_id, subject) VALUES ($1, $2, 'Invoice') ON CONFLICT DO NOTHING",
            (ticket.account_id, ticket.ticket_id),
        )
        await messages.keep(conn, ticket, [kept], waiting=(), sync_status="not_applicable")
        await messages.save_original(conn, [SavedOriginal(email_id, original)])


async def announce_again(res: Resources, number: int) -> None:
    """Receive a further webhook about an e-mail."""
    body = b'{"number": %d, "again": true}' % number
    async with res.engine.connect() as conn:
        await receive(conn, [arrival(number, idempotency_key=f"again-{number}", raw_body=body)])


async def act(res: Resources, email_id: int, *, is_dismissal: bool) -> None:
    if is_dismissal:
        await dismiss.dismiss(res, email_id, "ann (api)", "The sender wrote again.")
        return
    async with res.engine.connect() as conn:
        await retries.retry(conn, [email_id], "ann (api)")


async def populate(res: Resources, count: int = 6) -> list[int]:
    """Record e-mails of every kind, with a head after each second; return their ids."""
    await sequence.begin(res)
    ids = []
    for number in range(1, count + 1):
        ids.append(await add_whole(res, number, fails=number % 3 == 0))
        await announce_again(res, number)
        if number % 3:
            if number % 2:
                await act(res, ids[-1], is_dismissal=False)
        else:
            await act(res, ids[-1], is_dismissal=True)
        if number % 2 == 0:
            await place_all(res, wants_head=True)
    await place_all(res, wants_head=True)
    await finish_later(res)
    return ids


async def place_all(res: Resources, *, wants_head: bool = False) -> None:
    """Place every entry; with `wants_head`, put a head over them into the storage."""
    if wants_head:
        await make_head(res)
        return
    while (done := await sequence.step(res, waits=True)) and done.has_more:
        pass


async def finish_later(res: Resources) -> None:
    """Let the pass over older rows end, as it does an hour after the log began."""
    async with res.engine.connect() as conn:
        await conn.exec_driver_sql("UPDATE evidence_log SET began_at = began_at - interval '2 hours'")
    while await later.step(res):
        pass


async def verified(res: Resources, *, with_objects: bool = True) -> Verification:
    return await verify(res, with_objects=with_objects, again=True)


async def codes(res: Resources) -> set[str]:
    """Return the codes of all findings."""
    return {str(found["code"]) for found in (await verified(res)).findings}


async def kinds(database: asyncpg.Connection) -> dict[str, int]:
    """Count the entries of each kind."""
    table = EvidenceEntry.__tablename__
    rows = await database.fetch(f"SELECT kind, count(*) AS number FROM {table} GROUP BY kind")
    return {row["kind"]: row["number"] for row in rows}
