"""Tickets: which worker looks one up at the moment, and the subject that its e-mails share."""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import BigInteger, Interval, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs.waiting import Sync
from service.postgres.engine import transaction
from service.postgres.message_tables import NO_SUBJECT
from service.zendesk.messages import MOST_TICKETS, TicketFacts
from service.zendesk.rate_limit import HAS_ROOM, IS_BUSY

# A worker that dies during a look-up leaves its lease; then another one looks up the ticket.
LEASE = timedelta(seconds=20)
# In steady traffic all workers together make one in this time, or when it is full;
# after a quiet time, the first ones are made at once.
ASK_EVERY = timedelta(seconds=5)
ASK_AT_ONCE = 5 * ASK_EVERY
# While calls are scarce: then these are few beside those of look-ups. Attempts do not wait so long for a subject.
ASK_SELDOM = timedelta(minutes=1)
# A subject is asked for again after this time, if the worker that asked for it has ended.
ASK_AGAIN = timedelta(seconds=30)


class TicketKey(NamedTuple):
    """A ticket of an account; the account is "" where no webhook named it."""

    account_id: str
    ticket_id: str


class Asking(NamedTuple):
    """A caller that would ask for subjects: its key in `api_budgets`, and the percentage that the budget is of the limit."""

    account: str
    percent: int


class SavedFacts(NamedTuple):
    """A ticket's facts to save, and the state that the sync of its finished e-mails gets."""

    ticket: TicketKey
    facts: TicketFacts
    sync_status: str


async def lease(conn: AsyncConnection, tickets: Sequence[TicketKey]) -> list[bool]:
    """Take the lease for looking up each ticket; False where another worker has it."""
    # Ordered, so that two transactions with the same tickets do not deadlock.
    given = {"lease": LEASE, **_keys(sorted(set(tickets)))}
    taken = [TicketKey(*row) for row in await conn.execute(_LEASE, given)]
    results = []
    for ticket in tickets:
        results.append(ticket in taken)
        taken = [other for other in taken if other != ticket]  # of two equal ones, one gets it
    return results


async def release(conn: AsyncConnection, tickets: Sequence[TicketKey]) -> list[None]:
    """End the leases of look-ups, and forget tickets whose last e-mail was removed meanwhile: the removal left them to us."""
    await conn.execute(_RELEASE, _keys(sorted(set(tickets))))
    return [None] * len(tickets)


async def looked_up(conn: AsyncConnection, email_ids: Sequence[int]) -> list[bool]:
    """Say of each e-mail whether its ticket was looked up; True also where it became part of another e-mail."""
    waiting = set(await conn.scalars(_WAITING, {"email_ids": list(email_ids)}))
    return [email_id not in waiting for email_id in email_ids]


async def take_without_subject(conn: AsyncConnection, askings: Sequence[Asking]) -> list[list[TicketKey]]:
    """Take the tickets for the next call for subjects, oldest first; none before it is due.

    All callers are of one account. Of callers at the same time, one gets the tickets.
    """
    about = {**askings[0]._asdict(), "limit": MOST_TICKETS}
    others: list[list[TicketKey]] = [[] for _ in askings[1:]]
    if not await conn.scalar(_IS_DUE_TO_ASK, about):
        return [[], *others]
    pauses = {"every": ASK_EVERY, "seldom": ASK_SELDOM, "at_once": ASK_AT_ONCE, "again": ASK_AGAIN}
    return [[TicketKey(*row) for row in await conn.execute(_TAKE, {**about, **pauses})], *others]


async def have_subject(conn: AsyncConnection, wanted: Sequence[TicketKey]) -> list[bool]:
    """Say of each ticket whether its subject is known, or known to be none."""
    missing = {TicketKey(*row) for row in await conn.execute(_MISSING, _keys(sorted(set(wanted))))}
    return [ticket not in missing for ticket in wanted]


async def save_facts(conn: AsyncConnection, saved: Sequence[SavedFacts]) -> list[Sequence[Sync]]:
    """Save the subjects of tickets, also in their e-mails; return the syncs of finished e-mails to dispatch.

    A ticket that Zendesk does not tell has no subject: it is not asked for again.
    """
    facts = {each.ticket: each for each in saved}
    keys = sorted(facts)
    given = {
        **_keys(keys),
        "subjects": [facts[key].facts.subject for key in keys],
        "recipients": [facts[key].facts.recipient for key in keys],
        "sync_status": saved[0].sync_status,
    }
    async with transaction(conn):
        await conn.execute(_SAVE, given)
        rows = (await conn.execute(_FILL, given)).all()
    due: dict[TicketKey, list[Sync]] = {key: [] for key in keys}
    for row in rows:
        if row.is_due:
            due[TicketKey(row.account_id, row.ticket_id)].append(Sync(row.id, row.attempt_number))
    return [due.pop(each.ticket, []) for each in saved]


def _keys(keys: Sequence[TicketKey]) -> dict[str, list[str]]:
    return {"accounts": [key.account_id for key in keys], "tickets": [key.ticket_id for key in keys]}


_TEXTS = ARRAY(Text)
_TICKETS = (bindparam("accounts", type_=_TEXTS), bindparam("tickets", type_=_TEXTS))
_ASKED = "unnest(:accounts, :tickets) AS asked (account_id, ticket_id)"
_LEASE = text(f"""
INSERT INTO tickets (account_id, ticket_id, looking_until)
SELECT account_id, ticket_id, now() + :lease FROM {_ASKED}
ON CONFLICT (account_id, ticket_id) DO UPDATE SET looking_until = excluded.looking_until, asked_at = now()
WHERE coalesce(tickets.looking_until, now()) <= now()
RETURNING account_id, ticket_id
""").bindparams(*_TICKETS, bindparam("lease", type_=Interval()))  # noqa: S608 constants of ours
# An e-mail may have learned its account since.
_RELEASE = text(f"""
WITH released AS (
    SELECT account_id, ticket_id, EXISTS (
        SELECT FROM incoming_emails AS email WHERE zendesk_ticket_id = asked.ticket_id
            AND (coalesce(email.account_id, '') = asked.account_id OR asked.account_id = '')
    ) AS has_emails FROM {_ASKED}
), forgotten AS (
    DELETE FROM tickets USING released WHERE NOT has_emails
        AND tickets.account_id = released.account_id AND tickets.ticket_id = released.ticket_id
)
UPDATE tickets SET looking_until = NULL FROM released WHERE has_emails
    AND tickets.account_id = released.account_id AND tickets.ticket_id = released.ticket_id
""").bindparams(*_TICKETS)  # noqa: S608 constants of ours
_WAITING = text("""
SELECT id FROM incoming_emails WHERE id = ANY(:email_ids) AND looked_up_at IS NULL
""").bindparams(bindparam("email_ids", type_=ARRAY(BigInteger)))
_UNASKED = f"{NO_SUBJECT} AND asked_at <= now()"
_IS_TURN = f"""account = :account AND (
    coalesce(subjects_at <= now(), true)
    OR (SELECT count(*) FROM (SELECT FROM tickets WHERE {_UNASKED} LIMIT :limit) AS waiting) >= :limit
)"""  # noqa: S608 constants of ours
_LIMIT = bindparam("limit", type_=BigInteger())
# Most of the time nothing is due, and this look writes nothing.
_IS_DUE_TO_ASK = text(f"""
SELECT EXISTS (SELECT FROM tickets WHERE {_UNASKED})
    AND EXISTS (SELECT FROM (SELECT *, now() AS at FROM api_budgets WHERE {_IS_TURN}) AS minute WHERE {HAS_ROOM})
""").bindparams(_LIMIT)  # noqa: S608 constants of ours
_TAKE = text(f"""
WITH turn AS MATERIALIZED (
    UPDATE api_budgets AS budgets
    SET subjects_at = greatest(subjects_at, at - :at_once) + CASE WHEN is_busy THEN :seldom ELSE :every END
    FROM (
        SELECT account, at, {IS_BUSY} AS is_busy
        FROM (SELECT *, now() AS at FROM api_budgets WHERE {_IS_TURN} FOR UPDATE) AS locked
        WHERE {HAS_ROOM}
    ) AS turn
    WHERE budgets.account = turn.account
    RETURNING budgets.account
), due AS (
    SELECT account_id, ticket_id FROM tickets WHERE {_UNASKED} AND EXISTS (SELECT FROM turn)
    ORDER BY asked_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE tickets SET asked_at = now() + :again FROM due
WHERE tickets.account_id = due.account_id AND tickets.ticket_id = due.ticket_id
RETURNING tickets.account_id, tickets.ticket_id
""").bindparams(  # noqa: S608 constants of ours
    _LIMIT, *(bindparam(name, type_=Interval()) for name in ("every", "seldom", "at_once", "again"))
)
_MISSING = text(f"""
SELECT tickets.account_id, tickets.ticket_id FROM tickets JOIN {_ASKED} USING (account_id, ticket_id)
WHERE {NO_SUBJECT}
""").bindparams(*_TICKETS)  # noqa: S608 constants of ours
_FACTS = (
    "unnest(:accounts, :tickets, :subjects, :recipients) AS fact (account_id, ticket_id, subject, recipient)"
)
_FACT_LISTS = (*_TICKETS, bindparam("subjects", type_=_TEXTS), bindparam("recipients", type_=_TEXTS))
_SAVE = text(f"""
UPDATE tickets SET subject = fact.subject, recipient = fact.recipient, subject_at = now() FROM {_FACTS}
WHERE tickets.account_id = fact.account_id AND tickets.ticket_id = fact.ticket_id
""").bindparams(*_FACT_LISTS)  # noqa: S608 constants of ours
# A finished e-mail whose document lacks the subject is synced again, with a version of its own: a receiver drops another
# document of a version that it has. Rows are locked in the order of ids.
_IS_DUE = "(:sync_status = 'pending' AND email.processing_status IN ('completed', 'failed'))"
_IS_TOLD = f"{_IS_DUE} AND (email.sync_status = 'synced' OR email.sync_attempt_number > 0)"
_FILL = text(f"""
WITH lacking AS (
    SELECT email.id, fact.* FROM {_FACTS}
    JOIN incoming_emails AS email ON email.zendesk_ticket_id = fact.ticket_id
        AND (coalesce(email.account_id, '') = fact.account_id OR fact.account_id = '')  -- or it became known since
    JOIN messages ON messages.email_id = email.id
    WHERE messages.subject IS NULL AND fact.subject IS NOT NULL
        OR CAST(messages.to AS text) = '[]' AND fact.recipient IS NOT NULL
    ORDER BY email.id FOR NO KEY UPDATE OF email
), unwritten AS (
    DELETE FROM email_words USING lacking WHERE email_id = lacking.id  -- they lack the subject
), filled AS (
    UPDATE messages SET subject = coalesce(messages.subject, lacking.subject),
        "to" = CASE WHEN CAST(messages.to AS text) = '[]' AND lacking.recipient IS NOT NULL
            THEN json_build_array(json_build_object('name', NULL, 'address', lacking.recipient)) ELSE messages.to END
    FROM lacking WHERE messages.email_id = lacking.id
)
UPDATE incoming_emails AS email SET subject = coalesce(email.subject, lacking.subject),
    attempt_number = email.attempt_number + CASE WHEN {_IS_TOLD} THEN 1 ELSE 0 END,
    dismissed_attempt = dismissed_attempt
        + CASE WHEN {_IS_TOLD} AND dismissed_attempt = email.attempt_number THEN 1 ELSE 0 END,
    sync_status = CASE WHEN {_IS_DUE} THEN 'pending' ELSE sync_status END,
    sync_due_at = CASE WHEN {_IS_DUE} THEN now() ELSE sync_due_at END,
    sync_begun_at = CASE WHEN {_IS_DUE} THEN now() ELSE sync_begun_at END,
    sync_attempt_number = sync_attempt_number + CASE WHEN {_IS_DUE} AND sync_unsettled > 0 THEN 1 ELSE 0 END,
    sync_unsettled = CASE WHEN {_IS_DUE} THEN 0 ELSE sync_unsettled END,
    sync_retry_count = CASE WHEN {_IS_DUE} THEN 0 ELSE sync_retry_count END,
    sync_error = CASE WHEN NOT {_IS_DUE} THEN sync_error END,
    sync_error_code = CASE WHEN NOT {_IS_DUE} THEN sync_error_code END
FROM lacking WHERE email.id = lacking.id
RETURNING email.id, email.attempt_number, lacking.account_id, lacking.ticket_id, {_IS_DUE} AS is_due
""").bindparams(*_FACT_LISTS, bindparam("sync_status", type_=Text()))  # noqa: S608 constants of ours
