"""The files of two e-mails that are one: which of them are the same, and what becomes of the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import BigInteger, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.outbound.addresses import attachment_key
from service.postgres.email_tables import NOT_CAPTURED

Place = tuple[int, int]  # the id of an e-mail, and a position


@dataclass(frozen=True, slots=True)
class OwnFile:
    """What tells a file of an e-mail from another one; `sha256` is that of a stored or a lost content."""

    email_id: int
    position: int
    source_url: str
    file_name: str | None
    zendesk_id: str | None
    status: str
    sha256: str | None
    error_code: str | None = None

    @property
    def place(self) -> Place:
        return self.email_id, self.position

    @property
    def name(self) -> str:
        return (self.file_name or "").strip().casefold()


@dataclass(slots=True)
class FilePlan:
    """Which files of the e-mail that goes are files of the other one (`same`), and the new places of the others."""

    same: dict[Place, Place] = field(default_factory=dict)
    added: dict[Place, int] = field(default_factory=dict)
    has_changed: bool = False  # the other one gets a file, or the content of one
    has_pending: bool = False  # the other one gets a file that is still to be fetched


def plan_files(mine: Sequence[OwnFile], theirs: Sequence[OwnFile], *, is_finished: bool) -> FilePlan:
    """Match the files of `theirs` with `mine`: by attachment, by content and name, then those without an address.

    Two stored files with different contents never match, so that none of them is lost. `is_finished` says whether the
    job that `mine` belongs to has ended.
    """
    plan, known, left = FilePlan(), {file.position: file for file in mine}, list(theirs)
    free = set(known)
    for is_same in (_is_same_attachment, _has_same_content, _may_be_same):
        for file in list(left):
            # Several of their files may be one attachment of mine, but not several that only look alike.
            among = sorted(known if is_same is _is_same_attachment else free)
            fits = (known[place] for place in among if is_same(known[place], file))
            match = next((each for each in fits if not _differs(each, file)), None)
            if match is None:
                continue
            left.remove(file)
            free.discard(match.position)
            plan.same[file.place] = match.place
            if match.status != "stored" and file.status != "failed":
                plan.has_changed |= file.status == "stored"
                plan.has_pending |= match.status == "failed" and file.status == "pending"
                known[match.position] = replace(match, status=file.status, sha256=match.sha256 or file.sha256)
    first = max((file.position for file in mine), default=-1) + 1
    for position, file in enumerate(left, first):
        plan.added[file.place] = position
        plan.has_changed = True
        plan.has_pending |= not (file.status == "stored" or (is_finished and file.error_code == NOT_CAPTURED))
    return plan


async def files_by_email(conn: AsyncConnection, email_ids: Sequence[int]) -> Mapping[int, Sequence[OwnFile]]:
    """Read the files of e-mails, in their order."""
    found: dict[int, list[OwnFile]] = {email_id: [] for email_id in email_ids}
    for row in await conn.execute(_FILES, {"email_ids": list(email_ids)}):
        found[row.email_id].append(OwnFile(*row))
    return found


async def move_files(conn: AsyncConnection, plans: Mapping[tuple[int, int], FilePlan]) -> None:
    """Carry out plans, by the id of the e-mail that stays and of the one that goes; a stored file stays as it is."""
    same = [(*theirs, *mine) for plan in plans.values() for theirs, mine in plan.same.items()]
    added = [
        (*place, into, position)
        for (into, _), plan in plans.items()
        for place, position in plan.added.items()
    ]
    # Several files of one may be the same file of the other: the best of them is taken.
    if same:
        await conn.execute(_MATCH, _arrays(same))
        await conn.execute(_DROP, _arrays(same))
    if added:
        await conn.execute(_MOVE, _arrays(added))


def _is_same_attachment(mine: OwnFile, file: OwnFile) -> bool:
    if mine.zendesk_id is not None and mine.zendesk_id == file.zendesk_id:
        return True
    key = attachment_key(file.source_url)
    return bool(key) and attachment_key(mine.source_url) == key


def _has_same_content(mine: OwnFile, file: OwnFile) -> bool:
    return mine.sha256 is not None and mine.sha256 == file.sha256 and mine.name == file.name


def _may_be_same(mine: OwnFile, file: OwnFile) -> bool:
    """Say whether a file that a webhook announced without its address is this one."""
    if mine.source_url and file.source_url:
        return False
    return not mine.name or not file.name or mine.name == file.name


def _differs(mine: OwnFile, file: OwnFile) -> bool:
    return mine.sha256 is not None and file.sha256 is not None and mine.sha256 != file.sha256


def _arrays(rows: Sequence[tuple[int, int, int, int]]) -> dict[str, list[int]]:
    return dict(zip(_PAIRED, map(list, zip(*rows, strict=True)), strict=True))


_PAIRED = ("gone", "from_position", "into_id", "to_position")
_PAIR = "unnest(:gone, :from_position, :into_id, :to_position) AS pair (gone, from_position, into_id, to_position)"
_PAIR_ARRAYS = [bindparam(name, type_=ARRAY(BigInteger)) for name in _PAIRED]

_FILES = text("""
SELECT email_id, position, source_url, file_name, zendesk_id, status, sha256, error_code FROM attachments
WHERE email_id = ANY(:email_ids) ORDER BY email_id, position
""").bindparams(bindparam("email_ids", type_=ARRAY(BigInteger)))

# A content that was stored, or lost, stays; a pending or failed file takes the address of the newer announcement.
_CONTENT = ("sha256", "size", "detected_type", "object_key", "stored_at")
_ABOUT = ("file_name", "declared_type", "declared_size", "zendesk_id", "inline", "malware")
_IS_TAKEN = "mine.status <> 'stored' AND theirs.status = 'stored'"
_MATCH = text(f"""
UPDATE attachments AS mine SET
    status = CASE WHEN mine.status = 'stored' OR theirs.status = 'stored' THEN 'stored'
        WHEN mine.status = 'pending' OR theirs.status = 'pending' THEN 'pending' ELSE 'failed' END,
    error_code = CASE WHEN mine.status = theirs.status THEN mine.error_code END,
    error = CASE WHEN mine.status = theirs.status THEN mine.error END,
    source_url = CASE WHEN mine.status = 'stored' AND mine.source_url <> '' OR theirs.source_url = ''
        THEN mine.source_url ELSE theirs.source_url END,
    {", ".join(f"{name} = CASE WHEN {_IS_TAKEN} THEN theirs.{name} ELSE mine.{name} END" for name in _CONTENT)},
    {", ".join(f"{name} = coalesce(mine.{name}, theirs.{name})" for name in _ABOUT)}
FROM (
    SELECT DISTINCT ON (into_id, to_position) into_id, to_position, attachments.*
    FROM {_PAIR} JOIN attachments ON email_id = gone AND position = from_position
    ORDER BY into_id, to_position, array_position(ARRAY['stored', 'pending', 'failed'], status), position
) AS theirs
WHERE mine.email_id = theirs.into_id AND mine.position = theirs.to_position
""").bindparams(*_PAIR_ARRAYS)  # noqa: S608 names of ours
_DROP = text(f"""
DELETE FROM attachments USING {_PAIR} WHERE email_id = gone AND position = from_position
""").bindparams(*_PAIR_ARRAYS)  # noqa: S608 names of ours
# An attempt fetches pending files only. Those that a previous system never captured wait for a person's retry.
_MOVE = text(f"""
UPDATE attachments AS file SET email_id = into_id, position = to_position,
    status = CASE WHEN file.status = 'failed' AND (
        coalesce(file.error_code, '') <> '{NOT_CAPTURED}' OR email.processing_status NOT IN ('completed', 'failed')
    ) THEN 'pending' ELSE file.status END
FROM {_PAIR} JOIN incoming_emails AS email ON email.id = into_id
WHERE file.email_id = gone AND file.position = from_position
""").bindparams(*_PAIR_ARRAYS)  # noqa: S608 names of ours
