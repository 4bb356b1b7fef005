"""E-mails that no webhook announced: made of comments that Zendesk lists, and marked by Zendesk's later changes."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import BigInteger, DateTime, Interval, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs.waiting import DISPATCH_GRACE
from service.postgres import evidence_log
from service.postgres.email_tables import PROCESSING, UNANNOUNCED
from service.postgres.tombstones import comment_hashes, is_erased, ticket_hashes
from service.telemetry.metrics import TRANSITIONS

LOOK_UP, BACKFILL = "lookup", "backfill"

_FOUND = {
    LOOK_UP: TRANSITIONS.labels("received", "look_up"),
    BACKFILL: TRANSITIONS.labels("received", "backfill"),
}


class Discovery(NamedTuple):
    """A comment by e-mail that Zendesk lists; `created_at` is None if that is not known."""

    ticket_id: str
    comment_id: str
    created_at: datetime | None


class Mark(NamedTuple):
    """What Zendesk did with a comment, or with all comments of a ticket where `comment_id` is None.

    `state` is one of `zendesk_state`; "restored" and "public" take back "deleted" and "private".
    """

    ticket_id: str
    comment_id: str | None
    state: str


async def add(
    conn: AsyncConnection, account_id: str, found: Sequence[Discovery], *, origin: str, sync_status: str
) -> dict[tuple[str, str], int]:
    """Make e-mails of comments that are not on record; return the ids of the new ones by ticket and comment.

    A comment whose e-mail was purged or erased stays away.

    `account_id` is "" where it is not known; then a comment on record under any account is known.
    """
    given = {
        **_arrays(found),
        "account_id": account_id,
        "origin": origin,
        "sync_status": sync_status,
        "grace": DISPATCH_GRACE,
    }
    rows = await conn.execute(_ADD, given)
    new = {(ticket_id, comment_id): email_id for email_id, ticket_id, comment_id in rows}
    _FOUND[origin].inc(len(new))
    return new


async def count_missing(conn: AsyncConnection, account_id: str, found: Sequence[Discovery]) -> int:
    """Count the comments that are not on record: `add` would make e-mails of them."""
    given = {**_arrays(found), "account_id": account_id}
    return int(await conn.scalar(_COUNT, given) or 0)


async def learn_account(
    conn: AsyncConnection, account_id: str, limit: int, instead_of: str | None = None
) -> int:
    """Give e-mails that were made before the account's number was known their account; return how many.

    With `instead_of`, also those that were given this number, which is a wrong one. `jobs.identity.identify` merges each with
    the e-mail that a webhook made of its comment. Locked e-mails, and those of running attempts, are left to a later call.
    """
    given = {"account_id": account_id, "limit": limit, "wrong": instead_of}
    return (await conn.execute(_LEARN, given)).rowcount


async def adopt_nameless(conn: AsyncConnection, account_id: str, limit: int) -> int:
    """Give webhooks' e-mails without an account theirs, where a found one is the same comment; return how many.

    A proxy may take the header away that names the account. Merging is as in `learn_account`. Only the newest `limit`
    e-mails that were found are compared.
    """
    adopted = await conn.execute(_ADOPT, {"account_id": account_id, "limit": limit})
    return adopted.rowcount


async def mark(conn: AsyncConnection, account_id: str, marks: Sequence[Mark]) -> int:
    """Mark e-mails by Zendesk's changes; return how many changed. Our copies stay as they are.

    A mark only takes the place of a lesser one: private, redacted, deleted, permanently deleted. Of several about the same, such as
    private and public, the last one counts.
    """
    if not marks:
        return 0
    last = {(*each[:2], _UNDOES.get(each.state, each.state)): each for each in marks}
    columns = zip(*last.values(), strict=True)
    given = dict(zip(("tickets", "comments", "states"), map(list, columns), strict=True))
    marked = await conn.execute(_MARK, {**given, "account_id": account_id})
    return marked.rowcount


async def hide(conn: AsyncConnection, email_id: int) -> None:
    """Mark an e-mail as private whose message was public so far."""
    await conn.execute(_HIDE, {"email_id": email_id})


def _arrays(found: Sequence[Discovery]) -> dict[str, list[object]]:
    # Ordered, so that two transactions with the same comments do not deadlock.
    ordered = sorted({each[:2]: each for each in found}.values(), key=lambda each: each[:2])
    columns = zip(*ordered, strict=True) if ordered else ((), (), ())
    return dict(zip(("tickets", "comments", "times"), map(list, columns), strict=True))


_UNDOES = {"restored": "deleted", "public": "private"}
_TEXTS = ARRAY(Text)
_ACCOUNT = bindparam("account_id", type_=Text())
_ARRAYS = (
    bindparam("tickets", type_=_TEXTS),
    bindparam("comments", type_=_TEXTS),
    bindparam("times", type_=ARRAY(DateTime(timezone=True))),
)
# A request without the header of the account, and a search before the account's number was known, have no account.
IS_OF_ACCOUNT = "(:account_id = '' OR account_id IS NULL OR account_id = :account_id)"
IS_ERASED = f"""(
    {is_erased(comment_hashes(":account_id", "found.ticket_id", "found.comment_id"))}
    OR {is_erased(ticket_hashes(":account_id", "found.ticket_id"), "found.created_at")}
)"""
# Scalar subqueries and limits: for an EXISTS or a join, Postgres may choose to read the whole table.
_MISSING = f"""
FROM unnest(:tickets, :comments, :times) WITH ORDINALITY AS found (ticket_id, comment_id, created_at, place)
WHERE (
    SELECT known.id FROM incoming_emails AS known
    WHERE known.zendesk_ticket_id = found.ticket_id AND known.comment_id = found.comment_id AND {IS_OF_ACCOUNT}
    LIMIT 1
) IS NULL AND (
    SELECT removed.email_id FROM removed_emails AS removed
    WHERE removed.ticket_id = found.ticket_id AND removed.comment_id = found.comment_id AND {IS_OF_ACCOUNT}
    LIMIT 1
) IS NULL AND NOT {IS_ERASED}
"""  # noqa: S608 constants of ours
_ADD = text(f"""
WITH new AS (
INSERT INTO incoming_emails (
    account_id, zendesk_ticket_id, comment_id, identified, idempotency_key, processing_status, due_at, sync_status,
    origin, sent_at
)
SELECT nullif(:account_id, ''), ticket_id, comment_id, true,
    concat('comment:', :account_id, ':', ticket_id, ':', comment_id), 'received', now() + :grace, :sync_status,
    :origin, created_at
{_MISSING} ORDER BY place
ON CONFLICT DO NOTHING
RETURNING id, zendesk_ticket_id, comment_id, {evidence_log.told(evidence_log.accepted("incoming_emails"))} AS facts
), entered AS (
    INSERT INTO evidence_entries (kind, email_id, facts) SELECT 'accepted', id, facts FROM new
)
SELECT id, zendesk_ticket_id, comment_id FROM new
""").bindparams(  # noqa: S608 constants of ours
    *_ARRAYS,
    _ACCOUNT,
    bindparam("grace", type_=Interval()),
    *(bindparam(name, type_=Text()) for name in ("origin", "sync_status")),
)
_COUNT = text(f"SELECT count(*) {_MISSING}").bindparams(*_ARRAYS, _ACCOUNT)
_IS_FREE = f"NOT ({PROCESSING} AND coalesce(lease_until > now(), false))"
_ADOPT = text(f"""
UPDATE incoming_emails SET account_id = :account_id, identified = false FROM (
    SELECT email.id FROM (
        SELECT zendesk_ticket_id, comment_id FROM incoming_emails WHERE {UNANNOUNCED} ORDER BY id DESC LIMIT :limit
    ) AS found CROSS JOIN LATERAL (
        SELECT id FROM incoming_emails AS other
        WHERE other.zendesk_ticket_id = found.zendesk_ticket_id AND other.comment_id = found.comment_id
            AND other.origin = 'webhook' AND other.account_id IS NULL LIMIT 1
    ) AS nameless
    JOIN incoming_emails AS email ON email.id = nameless.id
    WHERE {_IS_FREE} AND email.account_id IS NULL
    ORDER BY email.id FOR UPDATE OF email SKIP LOCKED
) AS adopted
WHERE incoming_emails.id = adopted.id
""").bindparams(_ACCOUNT, bindparam("limit", type_=BigInteger()))  # noqa: S608 constants of ours
_LEARN = text(f"""
WITH nameless AS (
    SELECT id FROM incoming_emails
    WHERE {UNANNOUNCED} AND (account_id IS NULL OR account_id = :wrong) AND {_IS_FREE}
    ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE incoming_emails SET account_id = :account_id, identified = false FROM nameless
WHERE incoming_emails.id = nameless.id
""").bindparams(  # noqa: S608 constants of ours
    _ACCOUNT, bindparam("wrong", type_=Text()), bindparam("limit", type_=BigInteger())
)
_RANKS = "ARRAY['private', 'redacted', 'deleted', 'permanently_deleted']"
_TAKES_BACK = (
    "(:of = 'restored' AND zendesk_state = 'deleted' OR :of = 'public' AND zendesk_state = 'private')"
)
_IS_CHANGE = f"""(
    {_TAKES_BACK.replace(":of", "marked.state")}
    OR coalesce(array_position({_RANKS}, marked.state) > coalesce(array_position({_RANKS}, zendesk_state), 0), false)
)"""
_MARK = text(f"""
UPDATE incoming_emails SET zendesk_state = changed.state,
    zendesk_state_at = CASE WHEN changed.state IS NOT NULL THEN now() END
FROM (
    SELECT DISTINCT ON (id) id, nullif(nullif(state, 'restored'), 'public') AS state FROM (
        SELECT email.id, marked.state, marked.place
        FROM unnest(:tickets, :comments, :states) WITH ORDINALITY AS marked (ticket_id, comment_id, state, place)
        CROSS JOIN LATERAL (
            SELECT id FROM incoming_emails
            WHERE zendesk_ticket_id = marked.ticket_id
                AND (marked.comment_id IS NULL OR comment_id = marked.comment_id) AND {IS_OF_ACCOUNT}
            ORDER BY id LIMIT 5000
        ) AS known
        JOIN incoming_emails AS email ON email.id = known.id
        WHERE {_IS_CHANGE}
        ORDER BY email.id FOR NO KEY UPDATE OF email
    ) AS locked
    ORDER BY id, array_position({_RANKS}, state) DESC NULLS LAST, place DESC
) AS changed
WHERE incoming_emails.id = changed.id
""").bindparams(  # noqa: S608 constants of ours
    *(bindparam(name, type_=_TEXTS) for name in ("tickets", "comments", "states")), _ACCOUNT
)
_HIDE = text("""
UPDATE incoming_emails SET zendesk_state = 'private', zendesk_state_at = now()
WHERE id = :email_id AND zendesk_state IS NULL AND EXISTS (SELECT FROM messages WHERE email_id = id AND public)
""")
