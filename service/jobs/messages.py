"""Messages: the contents of a ticket's comments are kept with their e-mails, and comments without one become e-mails."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Select, Text, Update, and_, bindparam, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, Insert
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import ADAPT, ROW_REFUSED, Permanent
from service.jobs import announcements, discovery, identity
from service.jobs.discovery import Discovery, Mark
from service.jobs.erased import ERASED, erased_comments, forget
from service.jobs.listed_files import keep_files
from service.jobs.loose_objects import forget_notes, note_named, note_original, note_records
from service.jobs.object_references import ObjectRemoved, Proofs, lock_objects, removals_of
from service.jobs.originals import revise
from service.jobs.tickets import TicketKey
from service.jobs.waiting import Job, lock
from service.postgres import evidence_log
from service.postgres.engine import transaction
from service.postgres.held_emails import free_of_holds
from service.postgres.message_tables import Message
from service.storage.objects import StoredObject
from service.zendesk.messages import CommentMessage, Person, TicketFacts, cut_text

# The type of an ignored webhook that announced an agent's comment, which is no e-mail.
AGENTS_COMMENT = "comment by an agent, not an e-mail"


class WaitingEmail(NamedTuple):
    """An e-mail of a ticket that waits for a look-up, or runs."""

    email_id: int
    comment_id: str | None
    received_at: datetime
    from_email: str | None
    addresses: Sequence[str]  # of the files that its webhook announced
    is_listed: bool = False  # a back-fill found it: Zendesk says that it is an e-mail
    may_wait: bool = False  # it was made long before it was found


@dataclass(frozen=True, slots=True)
class KnownEmails:
    """What is kept of a ticket: comments that are e-mails already, those that wait, and the newest comment's time.

    `now` is the time of that by the clock of Postgres: that of a worker may be wrong.
    """

    comments: frozenset[str]
    waiting: Sequence[WaitingEmail]
    newest: datetime | None
    now: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class KeptComment:
    """A comment to keep, its stored record, and its e-mail; without one, it becomes a new e-mail."""

    comment: CommentMessage
    record: StoredObject
    email_id: int | None


class MessageState(NamedTuple):
    """What a message still lacks, and the seconds since its first look-up, and since its comment was made."""

    audit_id: str | None
    message_id: str | None
    lacks_subject: bool
    wants_original: bool
    age: float
    comment_age: float


@dataclass(frozen=True, slots=True)
class SavedOriginal:
    """The original of an e-mail, and its date; without one, it is not available, and `error_code` says why.

    `proof` is the number of the last removal of its object, if the object was seen after that.
    """

    email_id: int
    stored: StoredObject | None = None
    sent_at: datetime | None = None
    proof: int | None = None
    error_code: str | None = None


async def state_of(conn: AsyncConnection, email_ids: Sequence[int]) -> list[MessageState | None]:
    """Return the state of each message; None for an e-mail without one."""
    rows = await conn.execute(_STATE, {"email_ids": list(email_ids)})
    states = {email_id: MessageState(*state) for email_id, *state in rows}
    return [states.get(email_id) for email_id in email_ids]


async def save_original(
    conn: AsyncConnection, originals: Sequence[SavedOriginal]
) -> list[ObjectRemoved | None]:
    """Record the originals of e-mails, or that there are none; ObjectRemoved where an equal object was removed."""
    async with transaction(conn):
        await lock(conn, [each.email_id for each in originals])
        refused = await _refused(conn, originals)
        saved = await _save_originals(conn, [each for each in originals if _key_of(each) not in refused])
        await revise(conn, [each.email_id for each in saved if each.sent_at is not None])
    return [
        ObjectRemoved({key: refused[key]}) if (key := _key_of(each)) in refused else None
        for each in originals
    ]


async def known_emails(
    conn: AsyncConnection, ticket: TicketKey, running: int, comment_ids: Sequence[str]
) -> KnownEmails:
    """Read the kept facts of a ticket; of its comments, only these. `running` is the e-mail of the attempt that asks."""
    given = {**ticket._asdict(), "running": running, "comment_ids": list(comment_ids)}
    known = frozenset(await conn.scalars(_KNOWN, given))
    waiting = [WaitingEmail(*row) for row in await conn.execute(_WAITING, given)]
    times = (await conn.execute(_TIMES, given)).one()
    return KnownEmails(known, waiting, times.newest, times.now)


async def keep(  # noqa: PLR0913 the parts of one look-up
    conn: AsyncConnection,
    ticket: TicketKey,
    comments: Sequence[KeptComment],
    *,
    waiting: Collection[int],
    sync_status: str,
    proofs: Proofs = MappingProxyType({}),
) -> list[Job]:
    """Keep comments with their e-mails, in one transaction; return the jobs to dispatch.

    E-mails without a comment get theirs, and become one with another e-mail of it. Comments without an e-mail become new
    e-mails; erased ones are not kept, and an e-mail that turns out to be one is deleted. `waiting` are those whose attempts
    wait for this: they read their files afterwards. Raises ObjectRemoved as `lock_objects` does.
    """
    async with transaction(conn):
        # Before any e-mail, as `tickets.save_facts` does: a subject that it saves meanwhile would reach no message.
        await conn.execute(_LOCK_TICKET, ticket._asdict())
        comments = await _without_erased(conn, ticket, comments)
        kept, new = await _identify(conn, ticket, comments, sync_status)
        # An e-mail may have been removed since the look-up began.
        kept = {email_id: kept[email_id] for email_id in await lock(conn, sorted(kept))}
        # A webhook may have told the subject.
        await conn.execute(_LEARN, {**ticket._asdict(), "email_ids": sorted(kept)})
        # Without a row, the last e-mail of the ticket was removed after the lease of the look-up had ended.
        facts = (await conn.execute(_FACTS, ticket._asdict())).one_or_none()
        # A redacted comment keeps its record from before the redaction.
        records = {email_id: each.record for email_id, each in kept.items() if not each.comment.is_redacted}
        await lock_objects(conn, [each.record.key for each in kept.values()], proofs)
        await note_records(conn, [*records.items()])
        told = TicketFacts(facts.subject, facts.recipient) if facts else TicketFacts(None, None)
        named = {await _save(conn, email_id, each, told) for email_id, each in kept.items()}
        await forget_notes(conn, [each.record for each in comments if each.record.key in named])
        listed = {email_id: each.comment.files for email_id, each in kept.items()}
        foreign = {email_id: each.comment.foreign for email_id, each in kept.items()}
        changed = await keep_files(conn, listed, foreign)
        await discovery.mark(conn, ticket.account_id, _redacted(ticket, kept.values()))
        again = await announcements.reopen(conn, sorted(changed - {*waiting, *new}))
    return [*(Job(email_id, 1) for email_id in new), *again]


async def ignore(conn: AsyncConnection, email_ids: Sequence[int]) -> None:
    """Turn e-mails that are none into ignored webhooks, with their requests byte for byte.

    An e-mail that has files stays: an announcement may have brought them since the look-up. A held one stays, too.
    """
    async with transaction(conn):
        free = await free_of_holds(conn, email_ids)
        await lock(conn, free)
        without = (await conn.scalars(_WITHOUT_FILES, {"email_ids": free})).all()
        await conn.execute(_IGNORE, {"email_ids": without, "event_type": AGENTS_COMMENT})
        await evidence_log.record(conn, "withdrawn", [{"reason": AGENTS_COMMENT}] * len(without), without)
        await note_named(conn, without)
        for statement in _FORGET:
            await conn.execute(statement, {"email_ids": without})


async def _refused(conn: AsyncConnection, originals: Sequence[SavedOriginal]) -> dict[str, int | None]:
    keys = [each.stored.key for each in originals if each.stored]
    proofs = {each.stored.key: each.proof for each in originals if each.stored and each.proof is not None}
    return await removals_of(conn, keys, proofs) if keys else {}


def _key_of(original: SavedOriginal) -> str:
    return original.stored.key if original.stored else ""


async def _save_originals(
    conn: AsyncConnection, originals: Sequence[SavedOriginal]
) -> Sequence[SavedOriginal]:
    """Save originals; return those that are new."""
    new = []
    for each in sorted(originals, key=lambda each: each.email_id):
        stored = each.stored
        about = (stored.sha256, stored.key, stored.size) if stored else (None, None, None)
        names = ("original_sha256", "original_key", "original_size")
        values: dict[str, Any] = dict(zip(names, about, strict=True))
        values["original"] = "stored" if stored else "not_available"
        values |= {"original_error_code": each.error_code, "original_due_at": None}
        if each.sent_at is not None:
            values["sent_at"] = each.sent_at
        # What is known of an original stays: whoever asked may have hung since, while another one or a merge brought it,
        # or an erasure took it away.
        is_wanted = and_(Message.email_id == each.email_id, Message.original.is_(None))
        saved = update(Message).where(is_wanted).values(**values)
        await note_original(conn, each.email_id, stored)
        if await conn.scalar(_with_evidence(saved)) is not None:
            await forget_notes(conn, [stored] if stored else [])
            new.append(each)
    return new


async def _identify(
    conn: AsyncConnection, ticket: TicketKey, comments: Sequence[KeptComment], sync_status: str
) -> tuple[dict[int, KeptComment], list[int]]:
    """Give each comment its e-mail; return the comments by e-mail, and the new e-mails."""
    kept: dict[int, KeptComment] = {}
    new: list[int] = []
    # Ordered, so that two transactions with the same comments do not deadlock.
    for each in sorted(comments, key=lambda each: (each.email_id or 0, each.comment.comment_id)):
        if each.email_id is None:
            found, is_new = await _insert(conn, ticket, each.comment, sync_status)
            if found is None:
                continue
            email_id = found
            new += [email_id] if is_new else []
        else:
            email_id = await identity.resolve(conn, each.email_id, each.comment.comment_id)
        kept[email_id] = each
    return kept, new


async def _without_erased(
    conn: AsyncConnection, ticket: TicketKey, comments: Sequence[KeptComment]
) -> Sequence[KeptComment]:
    """Leave out erased comments, and delete their e-mails."""
    erased = await erased_comments(conn, ticket, (each.comment for each in comments))
    if not erased:
        return comments
    gone = [each for each in comments if each.comment.comment_id in erased]
    await forget(conn, [each.email_id for each in gone if each.email_id is not None])
    return [each for each in comments if each.comment.comment_id not in erased]


def _redacted(ticket: TicketKey, kept: Iterable[KeptComment]) -> list[Mark]:
    """Return the marks of comments of which Zendesk has redacted a text or a file."""
    return [
        Mark(ticket.ticket_id, each.comment.comment_id, "redacted")
        for each in kept
        if each.comment.is_redacted or any(file.is_gone for file in each.comment.files)
    ]


async def _insert(
    conn: AsyncConnection, ticket: TicketKey, comment: CommentMessage, sync_status: str
) -> tuple[int | None, bool]:
    """Make an e-mail of a comment that no webhook announced; return its id, and whether it is new.

    Return no id if the comment was erased just now.
    """
    found = Discovery(ticket.ticket_id, comment.comment_id, comment.created_at)
    new = await discovery.add(
        conn, ticket.account_id, [found], origin=discovery.LOOK_UP, sync_status=sync_status
    )
    if new:
        return new[found[:2]], True
    given = {**ticket._asdict(), "comment_id": comment.comment_id}
    email_id = await conn.scalar(_IDENTIFIED, given)
    if email_id is None:
        if await erased_comments(conn, ticket, [comment]):
            return None, False
        another = "Postgres refuses a row that violates a unique constraint of another system."
        raise Permanent(ROW_REFUSED, f"{another} {ADAPT}")
    return int(email_id), False


async def _save(conn: AsyncConnection, email_id: int, kept: KeptComment, facts: TicketFacts) -> str:
    """Save a message; return the key of its record.

    A later look-up changes the facts that Zendesk may change, and no time of the first one.
    """
    comment, record = kept.comment, kept.record
    # A follow-up names no recipient; its ticket does.
    to = comment.to or ((Person(None, facts.recipient),) if facts.recipient else ())
    message: dict[str, Any] = {
        "comment_id": comment.comment_id,
        "audit_id": comment.audit_id,
        "channel": comment.channel,
        "direction": comment.direction,
        "public": comment.public,
        "from_address": comment.sender.address,
        "from_name": comment.sender.name,
        "to": _people(to),
        "cc": _people(comment.cc),
        "message_id": comment.message_id,
        "created_at": comment.created_at,
        "text": cut_text(comment.text),
        "text_size": len(comment.text.encode()),
        "has_html": comment.html is not None,
        "record_sha256": record.sha256,
        "record_key": record.key,
        "record_size": record.size,
    }
    first = {"email_id": email_id, "subject": facts.subject, "sent_at": comment.created_at}
    saved = pg_insert(Message).values(**message, **first)
    # What was redacted in Zendesk since is not taken away here.
    newer = {"public": comment.public} if comment.is_redacted else message
    if comment.public is False:
        await discovery.hide(conn, email_id)
    upsert = saved.on_conflict_do_update(index_elements=["email_id"], set_=newer)
    key: str = await conn.scalar(_with_evidence(upsert))
    await conn.execute(_DESCRIBE, {"email_id": email_id})
    return key


def _with_evidence(saved: Insert | Update) -> Select[Any]:
    """Write the message, and its new state into the evidence log; return the key of its record."""
    facts = evidence_log.column(evidence_log.message("messages"))
    message = saved.returning(Message.email_id, Message.record_key, facts).cte("saved")
    return select(message.c.record_key).add_cte(evidence_log.entries("message", message, message.c.email_id))


def _people(people: Sequence[Person]) -> list[Mapping[str, str | None]]:
    return [{"name": person.name, "address": person.address} for person in people]


_TICKET = "zendesk_ticket_id = :ticket_id AND coalesce(account_id, '') = :account_id"
_KNOWN = text(f"""
SELECT comment_id FROM incoming_emails WHERE {_TICKET} AND comment_id = ANY(:comment_ids)
UNION ALL
SELECT comment_id FROM removed_emails WHERE ticket_id = :ticket_id AND comment_id = ANY(:comment_ids)
    AND coalesce(account_id, :account_id) IN (:account_id, '')
""").bindparams(bindparam("comment_ids", type_=ARRAY(Text)))  # noqa: S608 constants of ours
_WAITING = text(f"""
SELECT id, nullif(comment_id, '') AS comment_id, received_at, from_email,
    coalesce((SELECT array_agg(source_url) FROM attachments WHERE email_id = id), '{{}}') AS addresses,
    origin = 'backfill' AS is_listed, coalesce(origin = 'backfill' AND sent_at < received_at - interval '1 hour', false)
FROM incoming_emails
WHERE {_TICKET} AND (looked_up_at IS NULL OR id = :running)
    AND processing_status IN ('received', 'queued', 'processing')
ORDER BY id
""")  # noqa: S608 constants of ours
_TIMES = text(f"""
SELECT max(created_at) AS newest, now() FROM messages JOIN incoming_emails ON id = email_id WHERE {_TICKET}
""")  # noqa: S608 constants of ours
_LEARN = text("""
UPDATE tickets SET subject = told.subject, subject_at = now() FROM (
    SELECT subject FROM incoming_emails
    WHERE id = ANY(:email_ids) AND subject IS NOT NULL AND raw_body IS NOT NULL ORDER BY id DESC LIMIT 1
) AS told WHERE account_id = :account_id AND ticket_id = :ticket_id AND subject_at IS NULL
""").bindparams(bindparam("email_ids", type_=ARRAY(BigInteger)))
_LOCK_TICKET = text(
    "SELECT FROM tickets WHERE account_id = :account_id AND ticket_id = :ticket_id FOR NO KEY UPDATE"
)
_FACTS = text(
    "SELECT subject, recipient FROM tickets WHERE account_id = :account_id AND ticket_id = :ticket_id"
)
# An erased file is a part of its e-mail's original.
_STATE = text(f"""
SELECT email_id, audit_id, message_id, ticket_id IS NOT NULL AND subject_at IS NULL AS lacks_subject,
    original IS NULL AND audit_id IS NOT NULL AND message_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM attachments AS file WHERE file.email_id = messages.email_id AND file.error_code = '{ERASED}'
    ) AS wants_original,
    CAST(extract(epoch FROM now() - fetched_at) AS double precision) AS age,
    CAST(extract(epoch FROM now() - coalesce(created_at, fetched_at)) AS double precision) AS comment_age
FROM messages JOIN incoming_emails AS email ON id = email_id
LEFT JOIN tickets ON tickets.account_id = coalesce(email.account_id, '') AND ticket_id = zendesk_ticket_id
WHERE email_id = ANY(:email_ids)
""").bindparams(bindparam("email_ids", type_=ARRAY(BigInteger)))  # noqa: S608 a constant of ours
# The one that is the comment comes first; another row may only name it, or have no account.
_IDENTIFIED = text("""
SELECT id FROM incoming_emails
WHERE zendesk_ticket_id = :ticket_id AND comment_id = :comment_id
    AND (:account_id = '' OR account_id IS NULL OR account_id = :account_id)
ORDER BY identified AND coalesce(account_id, '') = :account_id DESC, id LIMIT 1
""").bindparams(bindparam("account_id", type_=Text()))
# Lists, filters and the search of an e-mail whose webhook said nothing of it use these columns.
_DESCRIBE = text("""
UPDATE incoming_emails SET looked_up_at = now(),
    subject = coalesce(incoming_emails.subject, messages.subject),
    from_email = coalesce(from_email, from_address),
    from_name = coalesce(incoming_emails.from_name, messages.from_name),
    sent_at = coalesce(incoming_emails.sent_at, messages.sent_at)
FROM messages WHERE id = :email_id AND email_id = id
""")
_IDS = bindparam("email_ids", type_=ARRAY(BigInteger))
# All that hangs on an e-mail which is none.
_FORGET = [
    text(f"DELETE FROM {table} WHERE {column} = ANY(:email_ids)").bindparams(_IDS)  # noqa: S608 constants of ours
    for table, column in (
        *((name, "email_id") for name in ("attempts", "attachments", "messages", "announcements")),
        *((name, "email_id") for name in ("email_words", "merged_emails")),
        ("incoming_emails", "id"),
    )
]
_WITHOUT_FILES = text("""
SELECT id FROM incoming_emails
WHERE id = ANY(:email_ids) AND NOT EXISTS (SELECT FROM attachments WHERE email_id = id)
""").bindparams(bindparam("email_ids", type_=ARRAY(BigInteger)))
_IGNORE = text("""
INSERT INTO ignored_webhooks (
    received_at, idempotency_key, signature_hash, event_type, account_id, invocation_id, raw_body, raw_headers, late
)
SELECT received_at, concat('sha256:', encode(sha256(raw_body), 'hex')), signature_hash, :event_type, account_id,
    invocation_id, raw_body, coalesce(raw_headers, '[]'), late
FROM (
    SELECT id, received_at, signature_hash, account_id, invocation_id, raw_body, raw_headers, late FROM incoming_emails
    WHERE id = ANY(:email_ids) AND raw_body IS NOT NULL
    UNION ALL
    SELECT email_id, received_at, signature_hash, account_id, invocation_id, raw_body, raw_headers, late
    FROM announcements WHERE email_id = ANY(:email_ids)
) AS requests ORDER BY id ON CONFLICT DO NOTHING
""").bindparams(bindparam("email_ids", type_=ARRAY(BigInteger)), bindparam("event_type", type_=Text()))
