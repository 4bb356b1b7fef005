"""Files that Zendesk lists for a comment, and how they change those of its e-mail.

A stored copy stays: neither a new address nor a redaction in Zendesk takes it away. But Zendesk's size may prove that a
copy is not the file: then the attempt fetches it again.
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sqlalchemy import JSON, BigInteger, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs.attachments import FileRecord, announced_row, files_of
from service.outbound.addresses import attachment_key
from service.zendesk.messages import ListedFile

# Codes of files that Zendesk does not give out. An administrator may allow a file with malware; then a later look-up
# finds it allowed.
REDACTED = "redacted"
MALWARE = "malware_found"
_REASONS = {
    REDACTED: "The file was redacted or deleted in Zendesk before it was stored.",
    MALWARE: "Zendesk found malware in the file, and gives it out only if an administrator allows it there.",
}
# After these errors, a new address may help.
_DEAD = frozenset({"not_found", "attachment_gone", "sign_in_page", MALWARE})


async def keep_files(
    conn: AsyncConnection,
    listed: Mapping[int, Sequence[ListedFile]],
    foreign: Mapping[int, Collection[str]] = MappingProxyType({}),
) -> set[int]:
    """Record the files that Zendesk lists, by the id of the e-mail; return the e-mails that have files to fetch now.

    `foreign` are the keys of files of other accounts that an e-mail only links to: a webhook with its text announced them,
    and they are withdrawn. The rows of the e-mails must be locked.
    """
    email_ids = sorted(listed)
    known = dict(zip(email_ids, await files_of(conn, email_ids), strict=True))
    rows = [
        {"email_id": email_id, **row}
        for email_id in email_ids
        for row in changes(known[email_id], listed[email_id])
    ]
    kept = {(row["email_id"], row["position"]) for row in rows}
    gone = [
        {"email_id": email_id, "position": file.position}
        for email_id in email_ids
        for file in known[email_id]
        if (email_id, file.position) not in kept
        and attachment_key(file.source_url) in foreign.get(email_id, ())
    ]
    if gone:
        await conn.execute(_WITHDRAW, {"files": gone})
    if rows:
        await conn.execute(_KEEP, {"files": rows})
    return set(await conn.scalars(_NEW, {"email_ids": [row["email_id"] for row in rows if row["is_new"]]}))


def changes(known: Sequence[FileRecord], listed: Sequence[ListedFile]) -> list[dict[str, Any]]:
    """Return the rows to write: of known files that Zendesk describes better, and of files that are not known yet.

    A listed file is a known one if it has its id in Zendesk or its address; or else its name where the known one has no
    address; or else its name and size, because addresses change; or else its name where the known one has no size either.
    """
    free = list(known)
    matches: dict[int, FileRecord] = {}
    for is_same in _SAME:
        for place, file in enumerate(listed):
            if place not in matches and (match := next((each for each in free if is_same(each, file)), None)):
                matches[place] = match
                free.remove(match)
    after = max((file.position for file in known), default=-1) + 1
    new = (place for place in range(len(listed)) if place not in matches)
    positions = {place: after + number for number, place in enumerate(new)}
    return [
        _changed(matches[place], file) if place in matches else _added(positions[place], file)
        for place, file in enumerate(listed)
    ]


def _added(position: int, file: ListedFile) -> dict[str, Any]:
    code = _refusal(file)
    status = "failed" if code else "pending"
    row = {**announced_row(position, file), "status": status, "is_new": status == "pending"}
    return {**row, **_verdict(file), "error_code": code, "error": _REASONS.get(code or "")}


def _changed(known: FileRecord, file: ListedFile) -> dict[str, Any]:
    """Describe a known file anew; its known facts stay where Zendesk says nothing."""
    code = _refusal(file)
    error: tuple[str | None, str | None]
    is_moved = bool(file.url) and attachment_key(file.url) != attachment_key(known.source_url)
    if code:
        status, error = "failed", (code, _REASONS[code])
    elif known.status == "failed" and (is_moved or known.error_code == MALWARE) and known.error_code in _DEAD:
        status, error = "pending", (None, None)
    else:
        status, error = known.status, (known.error_code, known.error)
    return {
        "position": known.position,
        "source_url": file.url if file.url and not file.is_gone else known.source_url,
        "file_name": known.file_name or file.file_name,
        "declared_type": known.declared_type or file.content_type,
        # A redacted file has the size of what Zendesk put in its place.
        "declared_size": known.declared_size if file.is_gone or file.size is None else file.size,
        "status": status,
        "is_new": status == "pending" and known.status == "failed",
        **_verdict(file),
        "error_code": error[0],
        "error": error[1],
    }


def _refusal(file: ListedFile) -> str | None:
    if file.is_gone:
        return REDACTED
    return MALWARE if file.malware == MALWARE else None


def _verdict(file: ListedFile) -> dict[str, Any]:
    return {"zendesk_id": file.zendesk_id, "inline": file.inline, "malware": file.malware}


def _has_id(known: FileRecord, file: ListedFile) -> bool:
    return known.zendesk_id is not None and known.zendesk_id == file.zendesk_id


def _has_address(known: FileRecord, file: ListedFile) -> bool:
    return bool(file.url) and attachment_key(known.source_url) == attachment_key(file.url)


def _has_name_alone(known: FileRecord, file: ListedFile) -> bool:
    return not known.source_url and known.file_name is not None and _name(known) == _name(file)


def _has_name_and_size(known: FileRecord, file: ListedFile) -> bool:
    is_same_size = file.size is not None and file.size in {known.declared_size, known.size}
    return known.zendesk_id is None and is_same_size and _name(known) == _name(file)


def _has_name_and_lacks_size(known: FileRecord, file: ListedFile) -> bool:
    """Match a file that is not stored: the list is whole, so it has this file, too, if only at another address."""
    is_missing = known.status != "stored" and known.zendesk_id is None and known.declared_size is None
    return is_missing and known.file_name is not None and _name(known) == _name(file)


def _is_only_counted(known: FileRecord, _file: ListedFile) -> bool:
    """Match a file of which the webhook told nothing but that there is one."""
    return not known.source_url and known.file_name is None


def _name(file: FileRecord | ListedFile) -> str:
    return (file.file_name or "").strip().casefold()


# The surest comes first.
_SAME = (
    *(_has_id, _has_address, _has_name_alone, _has_name_and_size, _has_name_and_lacks_size),
    _is_only_counted,
)
# A file may have been stored since it was read: then only the facts from Zendesk change.
_KEEP = text("""
INSERT INTO attachments AS known (
    email_id, position, source_url, file_name, declared_type, declared_size, status, zendesk_id, inline, malware,
    error_code, error
)
SELECT email_id, position, source_url, file_name, declared_type, declared_size, status, zendesk_id, inline, malware,
    error_code, error
FROM json_to_recordset(:files) AS file (
    email_id bigint, position integer, source_url text, file_name text, declared_type text, declared_size bigint,
    status text, zendesk_id text, inline boolean, malware text, error_code text, error text
)
ON CONFLICT (email_id, position) DO UPDATE SET
    zendesk_id = coalesce(excluded.zendesk_id, known.zendesk_id),
    inline = excluded.inline,
    malware = coalesce(excluded.malware, known.malware),
    file_name = excluded.file_name,
    declared_type = excluded.declared_type,
    declared_size = excluded.declared_size,
    source_url = CASE WHEN known.status = 'stored' AND (known.size = excluded.declared_size) IS NOT FALSE
        THEN known.source_url ELSE excluded.source_url END,
    status = CASE WHEN known.status = 'stored' THEN known.status ELSE excluded.status END,
    error_code = CASE WHEN known.status = 'stored' THEN known.error_code ELSE excluded.error_code END,
    error = CASE WHEN known.status = 'stored' THEN known.error ELSE excluded.error END
""").bindparams(bindparam("files", type_=JSON))
_WITHDRAW = text("""
DELETE FROM attachments USING json_to_recordset(:files) AS file (email_id bigint, position integer)
WHERE attachments.email_id = file.email_id AND attachments.position = file.position
    AND status <> 'stored' AND sha256 IS NULL
""").bindparams(bindparam("files", type_=JSON))
_NEW = text("""
SELECT DISTINCT email_id FROM attachments WHERE email_id = ANY(:email_ids) AND status = 'pending'
""").bindparams(bindparam("email_ids", type_=ARRAY(BigInteger)))
