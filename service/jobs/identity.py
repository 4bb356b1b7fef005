"""Which e-mail is which comment of Zendesk: one row for each, however many webhooks announced it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import BigInteger, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Transient
from service.jobs.merging import Pair, lock, merge_pairs
from service.postgres.email_tables import UNIDENTIFIED
from service.postgres.engine import transaction

# A concurrent transaction may take the identity first; then its e-mail is found and merged. More rarely it is merged
# itself meanwhile.
MOST_ROUNDS = 5
# Bytes of account, ticket and comment together: an index holds no longer ones. Zendesk's have about forty.
MOST_IDENTITY = 2_000

Identity = tuple[str, str, str]  # account, ticket, comment


@dataclass(slots=True)
class IdentifyResult:
    """What one batch did: the id to continue after (0 at the end), and what became of the rows."""

    after: int
    examined: int = 0
    identified: int = 0  # of these rows, those that are a comment from now on
    merged: list[Pair] = field(default_factory=list)
    left: int = (
        0  # rows that another transaction has, a running attempt, or an identity too long for an index
    )


async def merge(conn: AsyncConnection, into: int, gone: int) -> bool:
    """Make the e-mail `gone` part of `into`; return False, and do nothing, where one of them is no more.

    The requests, files, attempts, message and references of `gone` are those of `into` then; its row is deleted, and
    `merged_emails` keeps its id and key. See `merging.merge_pairs` for what happens to the job of `into`.
    """
    async with transaction(conn):
        return bool(await merge_pairs(conn, [Pair(into, gone)]))


async def resolve(conn: AsyncConnection, email_id: int, comment_id: str) -> int:
    """Give an e-mail its comment; return the id of the e-mail of that comment.

    Where another e-mail is that comment, both become the older one. For an e-mail that was merged before, return what it
    became. In a transaction of several calls, these are in the order of ids. Raises Transient("identity_busy") in the
    rare case that other transactions change the identity again and again.
    """
    async with transaction(conn):
        for _ in range(MOST_ROUNDS):
            found = await _find(conn, email_id, comment_id)
            if not found:
                return await conn.scalar(_MERGED, {"id": email_id}) or email_id
            if len(found) > 1:
                await lock(conn, found)
                if await _find(conn, email_id, comment_id) != found:
                    continue
                await merge_pairs(conn, [Pair(*sorted(found))])
            if await _name(conn, min(found), comment_id):
                return min(found)
    raise Transient("identity_busy", "Other transactions change the e-mails of this comment at this moment.")


async def identify(conn: AsyncConnection, after: int, limit: int, *, dry_run: bool = False) -> IdentifyResult:
    """Identify the next e-mails that name a comment, by id, and merge those of one comment into the oldest.

    Rows that another transaction has locked, or a running attempt, are left to a later call: it waits for nothing, and any
    number of processes may call it at once. With `dry_run` nothing is written, and the result says what would be.
    """
    if dry_run:
        return await _foresee(conn, after, limit)
    groups, result = await _next_groups(conn, after, limit)
    if groups:
        async with transaction(conn):
            await _identify_groups(conn, groups, result)
    result.left = result.examined - sum(group.examined for group in groups if group.is_done)
    return result


@dataclass(slots=True)
class _Group:
    """The rows of one comment: those of this batch, and the e-mail that is the comment already."""

    identity: Identity
    email_ids: list[int]
    examined: int = 0
    is_done: bool = False

    @property
    def has_oldest(self) -> bool:
        """Return whether the e-mail that stays is one of this batch, and not the one that is the comment already."""
        return min(self.email_ids) in self.email_ids[: self.examined]


async def _find(conn: AsyncConnection, email_id: int, comment_id: str) -> list[int]:
    """Return the e-mail, and the other one that is this comment; nothing if the first one is no more."""
    row = (await conn.execute(_FIND, {"id": email_id, "comment": comment_id})).one_or_none()
    return [] if row is None else [email_id] if row.other is None else [email_id, row.other]


async def _name(conn: AsyncConnection, email_id: int, comment_id: str) -> bool:
    """Write the comment of an e-mail; return False where another transaction was first."""
    try:
        async with conn.begin_nested():
            given = {"id": email_id, "comment": comment_id, "most": MOST_IDENTITY}
            return (await conn.execute(_NAME, given)).rowcount > 0
    except IntegrityError:
        return False


async def _next_groups(conn: AsyncConnection, after: int, limit: int) -> tuple[list[_Group], IdentifyResult]:
    given = {"after": after, "limit": limit, "most": MOST_IDENTITY}
    rows = (await conn.execute(_NEXT, given)).all()
    groups: dict[Identity, _Group] = {}
    for email_id, *identity in rows:
        key: Identity = (identity[0], identity[1], identity[2])
        group = groups.setdefault(key, _Group(key, []))
        group.email_ids.append(email_id)
        group.examined += 1
    return [*groups.values()], IdentifyResult(rows[-1].id if len(rows) == limit else 0, len(rows))


async def _identify_groups(conn: AsyncConnection, groups: Sequence[_Group], result: IdentifyResult) -> None:
    for group, owner in zip(groups, await _find_owners(conn, groups), strict=True):
        if owner is not None and owner not in group.email_ids:  # another process may have identified it since
            group.email_ids.append(owner)
    whole = await _lock_groups(conn, groups)
    if not await _identify(conn, whole, result):
        # A new e-mail took an identity since we looked, or a table of another system refers to a row.
        for group in whole:
            await _identify(conn, [group], result)


async def _find_owners(conn: AsyncConnection, groups: Sequence[_Group]) -> list[int | None]:
    """Return the e-mail that is the comment of each group already."""
    rows = await conn.execute(_OWNERS, _arrays(groups))
    owners: dict[int, int] = {row.place: row.id for row in rows}
    return [owners.get(place) for place in range(1, len(groups) + 1)]


async def _lock_groups(conn: AsyncConnection, groups: Sequence[_Group]) -> list[_Group]:
    """Lock all rows; return the groups of which every row could be locked, is the same and has no running attempt."""
    wanted = sorted({email_id for group in groups for email_id in group.email_ids})
    rows = await conn.execute(_FREE, {"email_ids": wanted})
    identities: dict[int, Identity] = {row[0]: (row[1], row[2], row[3]) for row in rows}
    return [
        group
        for group in groups
        if all(identities.get(email_id) == group.identity for email_id in group.email_ids)
    ]


async def _identify(conn: AsyncConnection, groups: Sequence[_Group], result: IdentifyResult) -> bool:
    """Merge the rows of each group into the oldest, and identify that one; False where Postgres refuses it."""
    oldest = [min(group.email_ids) for group in groups]
    pairs = [
        Pair(into, gone)
        for into, group in zip(oldest, groups, strict=True)
        for gone in sorted(group.email_ids)
        if gone != into
    ]
    try:
        async with conn.begin_nested():
            merged = await merge_pairs(conn, pairs) if pairs else []
            await conn.execute(_IDENTIFY, {"email_ids": oldest})
    except IntegrityError:
        return False
    for group in groups:
        group.is_done = True
    result.merged += merged
    result.identified += sum(group.has_oldest for group in groups)
    return True


async def _foresee(conn: AsyncConnection, after: int, limit: int) -> IdentifyResult:
    """Return what `identify` would do with the next rows, if it were called for all."""
    groups, result = await _next_groups(conn, after, limit)
    known = {row.place: row for row in await conn.execute(_OLDEST, _arrays(groups))}
    for place, group in enumerate(groups, 1):
        oldest, owner = known[place].oldest, known[place].owner
        result.identified += oldest in group.email_ids
        gone = {*group.email_ids} - {oldest}
        if oldest in group.email_ids and owner is not None:
            gone |= {owner} - {oldest}
        result.merged += [Pair(oldest, email_id) for email_id in sorted(gone)]
    return result


def _arrays(groups: Sequence[_Group]) -> dict[str, list[str]]:
    columns = zip(*(group.identity for group in groups), strict=True) if groups else ((), (), ())
    return dict(zip(_IDENTITY, map(list, columns), strict=True))


_IDENTITY = ("account", "ticket", "comment")
_WANTED = "unnest(:account, :ticket, :comment) WITH ORDINALITY AS wanted (account, ticket, comment, place)"
_ARRAYS = [bindparam(name, type_=ARRAY(Text)) for name in _IDENTITY]
_IDS = (bindparam("email_ids", type_=ARRAY(BigInteger)),)
_NUMBERS = [bindparam(name, type_=BigInteger()) for name in ("after", "limit", "most")]
_SIZE = "octet_length(coalesce(account_id, '')) + octet_length(zendesk_ticket_id) + octet_length({})"
_FIND = text("""
SELECT email.id, other.id AS other FROM incoming_emails AS email LEFT JOIN incoming_emails AS other
    ON other.identified AND coalesce(other.account_id, '') = coalesce(email.account_id, '')
    AND other.zendesk_ticket_id = email.zendesk_ticket_id AND other.comment_id = :comment AND other.id <> email.id
WHERE email.id = :id
""").bindparams(bindparam("id", type_=BigInteger()), bindparam("comment", type_=Text()))
_MERGED = text("SELECT email_id FROM merged_emails WHERE id = :id").bindparams(
    bindparam("id", type_=BigInteger())
)
_NAME = text(f"""
UPDATE incoming_emails SET comment_id = :comment, identified = {_SIZE.format(":comment")} <= :most WHERE id = :id
""").bindparams(  # noqa: S608 names of ours
    *(bindparam(name, type_=BigInteger()) for name in ("id", "most")), bindparam("comment", type_=Text())
)
_NEXT = text(f"""
SELECT id, coalesce(account_id, ''), zendesk_ticket_id, comment_id FROM incoming_emails
WHERE {UNIDENTIFIED} AND id > :after AND {_SIZE.format("comment_id")} <= :most ORDER BY id LIMIT :limit
""").bindparams(*_NUMBERS)  # noqa: S608 names of ours
_IS_WANTED = "coalesce(account_id, '') = account AND zendesk_ticket_id = ticket AND comment_id = comment"
_OWNERS = text(f"""
SELECT place, owner.id FROM {_WANTED} CROSS JOIN LATERAL (
    SELECT id FROM incoming_emails WHERE identified AND {_IS_WANTED} LIMIT 1
) AS owner
""").bindparams(*_ARRAYS)  # noqa: S608 names of ours
_OLDEST = text(f"""
SELECT place, min(id) AS oldest, max(id) FILTER (WHERE identified) AS owner
FROM {_WANTED} JOIN incoming_emails ON {_IS_WANTED} GROUP BY place
""").bindparams(*_ARRAYS)  # noqa: S608 names of ours
_FREE = text("""
SELECT id, coalesce(account_id, ''), zendesk_ticket_id, comment_id FROM incoming_emails
WHERE id = ANY(:email_ids) AND NOT (processing_status = 'processing' AND coalesce(lease_until > now(), false))
ORDER BY id FOR UPDATE SKIP LOCKED
""").bindparams(*_IDS)
_IDENTIFY = text(
    "UPDATE incoming_emails SET identified = true WHERE id = ANY(:email_ids) AND NOT identified"
).bindparams(*_IDS)
