"""An export of evidence as a ZIP: e-mails byte for byte, facts with salts, proofs, heads, and a program that checks them."""

import asyncio
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZipFile

from sqlalchemy import BigInteger, DateTime, SmallInteger, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Permanent, Rejected, Transient
from service.evidence import standalone
from service.evidence.heads import document
from service.evidence.tree import inclusion
from service.evidence.work import make_head
from service.postgres.engine import connect
from service.postgres.rows import in_batches
from service.queries.file_names import distinct_names
from service.resources import Resources
from service.storage import objects

# E-mails of one query.
STEP = 200
_MOST_PLAIN = 2**31 - 1  # bytes of a file in a ZIP without extensions
_TILE = 256
_README = """This is an export of Holdfast's evidence log. To check it, unpack it and run

    python3 verify.py

verify.py needs Python 3.11 or newer and nothing else. It says what is proven, and what is not.

emails/ID/     requests byte for byte, the message, files, and the history of each e-mail
evidence.json  the recorded facts, their salts, and their proofs
heads/         signed heads, as they are in storage and in mails; stamps/ has their time stamps
"""


@dataclass(frozen=True, slots=True)
class Request:
    """Which e-mails an export is about: these, those of a ticket, or those received between two times."""

    email_ids: Sequence[int] = ()
    ticket_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the request for the export itself."""
        return {
            "emails": [*self.email_ids],
            "ticket": self.ticket_id,
            "since": self.since and self.since.isoformat(),
            "until": self.until and self.until.isoformat(),
        }


@dataclass
class Exported:
    """What an export contains."""

    emails: int = 0
    files: int = 0
    leaves: int = 0
    missing: list[str] = field(default_factory=list)


async def export(res: Resources, request: Request, file: IO[bytes]) -> Exported:
    """Write an export, and make a head that covers the facts of all that it contains.

    Raises Rejected (404) where no e-mail matches, and Transient where Postgres or the storage is away, or where an e-mail was
    deleted or merged meanwhile: its facts are gone.
    """
    async with connect(res.engine) as conn:
        email_ids = [int(each) for each in await conn.scalars(_MATCHING, _parameters(request))]
    if not email_ids:
        raise Rejected(404, "email_not_found", "No e-mail matches.")
    archive = await asyncio.to_thread(ZipFile, file, "w", ZIP_DEFLATED)
    try:
        async with connect(res.engine) as conn:
            writer = _Writer(res, conn, archive)
            await writer.write("README.txt", _README.encode())
            await writer.write("verify.py", await asyncio.to_thread(Path(standalone.__file__).read_bytes))
            for some in in_batches(email_ids, STEP):
                await writer.add(some)
        # After the contents: whatever is recorded while they are read has a proof, too.
        await make_head(res)
        async with connect(res.engine) as conn:
            await _Prover(writer, conn).finish(request, email_ids)
    finally:
        await asyncio.to_thread(archive.close)
    return writer.done


def _parameters(request: Request) -> dict[str, Any]:
    return {
        "email_ids": [*request.email_ids] or None,
        "ticket": request.ticket_id,
        "since": request.since,
        "until": request.until,
    }


class _Writer:
    """Writes the contents of e-mails, one batch after the other."""

    def __init__(self, res: Resources, conn: AsyncConnection, archive: ZipFile) -> None:
        self.done = Exported()
        self._res, self._conn, self._archive = res, conn, archive

    async def write(self, name: str, content: bytes) -> None:
        """Write a file; deflating and the disk take time."""
        await asyncio.to_thread(self._archive.writestr, name, content)

    async def add(self, email_ids: Sequence[int]) -> None:
        """Write the content of e-mails."""
        given = {"email_ids": [*email_ids]}
        for name, content in await self._contents(given):
            await self.write(name, content)
            self.done.files += 1
        for row in await self._conn.execute(_OBJECTS, given):
            await self._copy(row)
        self.done.emails += len(email_ids)

    async def _contents(self, given: Mapping[str, Any]) -> list[tuple[str, bytes]]:
        """Return the facts from Postgres: requests, texts, and reasons."""
        found: list[tuple[str, bytes]] = []
        for row in await self._conn.execute(_REQUESTS, given):
            name = f"emails/{row.email_id}/request{'' if row.id is None else f'-{row.id}'}"
            found += [(f"{name}.body", row.raw_body), (f"{name}.headers.json", row.headers.encode())]
        for row in await self._conn.execute(_TEXTS, given):
            found.append((f"emails/{row.email_id}/message.txt", row.text.encode()))
        for row in await self._conn.execute(_REASONS, given):
            found.append((f"emails/{row.email_id}/acts/{row.id}-reason.txt", row.reason.encode()))
        return found

    async def _copy(self, row: Any) -> None:  # noqa: ANN401 a row
        """Copy the objects of an e-mail: record, original, and files under their names."""
        names = [*distinct_names((name, f"attachment-{place}") for place, name in enumerate(row.names))]
        keys = [*zip(row.keys, [f"files/{name}" for name in names], strict=True)]
        keys += [
            (key, name)
            for key, name in ((row.record_key, "record.json"), (row.original_key, "original.eml"))
            if key
        ]
        for key, name in keys:
            path = f"emails/{row.email_id}/{name}"
            try:
                opened = await objects.open(self._res.storage, key)
            except Permanent:
                self.done.missing.append(path)
                continue
            is_large = opened.size > _MOST_PLAIN
            entry = await asyncio.to_thread(self._archive.open, path, "w", force_zip64=is_large)
            try:
                async for chunk in opened.chunks:
                    await asyncio.to_thread(entry.write, chunk)
            finally:
                await asyncio.to_thread(entry.close)
            self.done.files += 1


class _Prover:
    """Writes the facts of e-mails with their proofs, after all contents."""

    def __init__(self, writer: _Writer, conn: AsyncConnection) -> None:
        self._writer, self._conn = writer, conn
        self._heads: dict[int, Any] = {}
        self._leaves: list[dict[str, Any]] = []
        self._tiles: dict[tuple[int, int], Sequence[bytes]] = {}

    async def finish(self, request: Request, email_ids: Sequence[int]) -> None:
        """Write the facts, and the heads that proofs lead to."""
        self._heads = {row.number: row for row in await self._conn.execute(_HEADS)}
        for some in in_batches(email_ids, STEP):
            await self._prove(some)
        used = {proof["head"] for leaf in self._leaves for proof in leaf["proofs"]}
        heads = []
        for number in sorted(used):
            head = self._heads[number]
            entry: dict[str, Any] = {"number": number, "file": f"heads/{number}.json"}
            await self._writer.write(entry["file"], document(head.body, head.signature))
            if head.stamp is not None:
                entry["stamp"] = f"stamps/{number}.tsr"
                await self._writer.write(entry["stamp"], head.stamp)
            heads.append(entry)
        data = {
            "format": 1,
            "log": str(await self._conn.scalar(_LOG_ID)),
            "request": request.as_json(),
            "heads": heads,
            "leaves": self._leaves,
            "missing": self._writer.done.missing,
        }
        await self._writer.write("evidence.json", json.dumps(data, indent=1).encode())
        self._writer.done.leaves = len(self._leaves)

    async def _prove(self, email_ids: Sequence[int]) -> None:
        """Add the leaves of e-mails, and of those that became part of them; raises Transient if an e-mail is gone."""
        given = {"email_ids": [*email_ids]}
        history: dict[int, list[str]] = {}
        # What was recorded since the newest head is no part of it.
        size = max((head.size for head in self._heads.values()), default=0)
        for row in await self._conn.execute(_LEAVES, {**given, "size": size}):
            history.setdefault(row.shown_id, []).append(await self._leaf(row))
        if gone := {*email_ids} - {*await self._conn.scalars(_PRESENT, given)}:
            message = f"E-mail {min(gone)} was deleted or merged during the export: export again."
            raise Transient("export_outdated", message)
        for email_id, lines in history.items():
            content = "\n".join([*sorted(lines), ""]).encode()
            await self._writer.write(f"emails/{email_id}/history.txt", content)

    async def _leaf(self, row: Any) -> str:  # noqa: ANN401 a row
        """Add a leaf with its proofs; return a line of the history."""
        numbers = [*self._heads]  # in their order, and so in that of their sizes
        first = bisect_right(numbers, row.index, key=lambda number: self._heads[number].size)
        proofs = []
        for number in dict.fromkeys((*numbers[first : first + 1], *numbers[first:][-1:])):
            path = await inclusion(self._read, row.index, self._heads[number].size)
            proofs.append({"head": number, "path": [each.hex() for each in path]})
        self._leaves.append(
            {"index": row.index, "salt": row.salt.hex(), "facts": row.facts, "proofs": proofs}
        )
        facts = json.loads(row.facts)
        told = ", ".join(
            f"{name} {value}"
            for name, value in facts.items()
            if name not in {"at", "kind"} and value is not None
        )
        return f"{facts.get('at')} {facts.get('kind')}: {told}"

    async def _read(self, level: int, begin: int, count: int) -> Sequence[bytes]:
        """Read hashes of a level; those of a proof are among 256 that begin at a multiple of 256."""
        tile = begin // _TILE
        if (level, tile) not in self._tiles:
            query, given = (_NODES, {"level": level}) if level else (_LEAF_HASHES, {})
            found = await self._conn.scalars(
                query, {**given, "first": tile * _TILE, "last": (tile + 1) * _TILE}
            )
            self._tiles[level, tile] = [bytes(each) for each in found]
        start = begin - tile * _TILE
        return self._tiles[level, tile][start : start + count]


_IDS = (bindparam("email_ids", type_=ARRAY(BigInteger)),)
_SPAN = [bindparam(name, type_=BigInteger()) for name in ("first", "last")]
_MATCHING = text("""
SELECT id FROM incoming_emails
WHERE (CAST(:email_ids AS bigint[]) IS NULL OR id = ANY(:email_ids))
    AND (CAST(:ticket AS text) IS NULL OR zendesk_ticket_id = :ticket)
    AND (CAST(:since AS timestamptz) IS NULL OR received_at >= :since)
    AND (CAST(:until AS timestamptz) IS NULL OR received_at < :until)
ORDER BY id
""").bindparams(
    *_IDS,
    bindparam("ticket", type_=Text()),
    *(bindparam(name, type_=DateTime(timezone=True)) for name in ("since", "until")),
)
_REQUESTS = text("""
SELECT id AS email_id, CAST(NULL AS bigint) AS id, raw_body, CAST(raw_headers AS text) AS headers
FROM incoming_emails WHERE id = ANY(:email_ids) AND raw_body IS NOT NULL AND raw_headers IS NOT NULL
UNION ALL
SELECT email_id, id, raw_body, CAST(raw_headers AS text) FROM announcements WHERE email_id = ANY(:email_ids)
ORDER BY 1, 2 NULLS FIRST
""").bindparams(*_IDS)
_TEXTS = text("SELECT email_id, text FROM messages WHERE email_id = ANY(:email_ids)").bindparams(*_IDS)
_REASONS = text("""
SELECT email_id, id, reason FROM operator_actions WHERE email_id = ANY(:email_ids) AND reason IS NOT NULL
""").bindparams(*_IDS)
_OBJECTS = text("""
SELECT email.id AS email_id, coalesce(file.keys, '{}') AS keys, coalesce(file.names, '{}') AS names,
    record_key, CASE WHEN original = 'stored' THEN original_key END AS original_key
FROM incoming_emails AS email LEFT JOIN messages ON messages.email_id = email.id
LEFT JOIN LATERAL (
    SELECT array_agg(object_key ORDER BY position) AS keys, array_agg(file_name ORDER BY position) AS names
    FROM attachments WHERE email_id = email.id AND status = 'stored'
) AS file ON true
WHERE email.id = ANY(:email_ids) ORDER BY email.id
""").bindparams(*_IDS)
_PRESENT = text("SELECT id FROM incoming_emails WHERE id = ANY(:email_ids)").bindparams(*_IDS)
_LEAVES = text("""
SELECT leaf.index, entry.salt, entry.facts, wanted.shown_id FROM (
    SELECT id, id AS shown_id FROM incoming_emails WHERE id = ANY(:email_ids)
    UNION ALL SELECT id, email_id FROM merged_emails WHERE email_id = ANY(:email_ids)
) AS wanted
JOIN evidence_entries AS entry ON entry.email_id = wanted.id
JOIN evidence_leaves AS leaf ON leaf.entry_id = entry.id
WHERE entry.salt IS NOT NULL AND leaf.index < :size ORDER BY leaf.index
""").bindparams(*_IDS, bindparam("size", type_=BigInteger()))
_HEADS = text("SELECT number, size, body, signature, stamp FROM evidence_heads ORDER BY number")
_LOG_ID = text("SELECT log_id FROM evidence_log WHERE id = 1")
_LEAF_HASHES = text("""
SELECT hash FROM evidence_leaves WHERE index >= :first AND index < :last ORDER BY index
""").bindparams(*_SPAN)
_NODES = text("""
SELECT hash FROM evidence_nodes WHERE level = :level AND index >= :first AND index < :last ORDER BY index
""").bindparams(*_SPAN, bindparam("level", type_=SmallInteger()))
