"""All of an e-mail as files: its message, its original, its record, its attachments, a manifest; and these as a ZIP."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import quote
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from service.error_guide import advice_on
from service.errors import Rejected
from service.queries.file_names import distinct_names
from service.queries.message_html import message_html
from service.queries.messages import MessageContent, StoredContent
from service.queries.views import AttachmentView, EmailDetail
from service.storage.objects import Storage

FOLDER = "files"
MANIFEST = "manifest.json"
# Deflating these again costs time and saves nothing.
_PACKED = ("image/", "audio/", "video/", "application/pdf", "application/zip", "application/gzip")
_PACKED_OFFICE = "application/vnd.openxmlformats"
# The sources that a page opened from a folder may take its images from.
_BESIDE = "'self' file:"
_EARLIEST, _LATEST = datetime(1980, 1, 1, tzinfo=UTC), datetime(2107, 12, 31, tzinfo=UTC)  # of a ZIP


@dataclass(frozen=True, slots=True)
class Part:
    """A file: its name, also with a folder; size in bytes, hash and content, to be read once.

    Reading raises Permanent and Transient, as `StoredContent.open` does.
    """

    name: str
    size: int
    sha256: str
    chunks: AsyncIterator[bytes]
    is_packed: bool = False


async def open_parts(storage: Storage, email: EmailDetail, content: MessageContent | None) -> list[Part]:
    """Open all files of an e-mail; the manifest is the last, and tells which ones are missing.

    Raises Permanent (`object_missing`, `object_damaged`) and Transient.
    """
    stored = [file for file in email.attachments if file.object_key is not None]
    names = dict(zip((file.position for file in stored), _names(stored), strict=True))
    parts, missing = await _message_parts(storage, email, content, names) if content else ([], [])
    for file in stored:
        kept = StoredContent(file.object_key or "", file.sha256 or "", file.size or 0)
        is_packed = (file.detected_type or "").startswith((*_PACKED, _PACKED_OFFICE))
        parts.append(await _stored(storage, names[file.position], kept, is_packed=is_packed))
    missing += [_missing_file(file) for file in email.attachments if file.object_key is None]
    manifest = json.dumps(_manifest(email, parts, names, missing), indent=2).encode()
    return [*parts, _made(MANIFEST, manifest)]


async def zipped(parts: Sequence[Part], email: EmailDetail) -> AsyncIterator[bytes]:
    """Yield a ZIP of the parts, piece by piece; it has its end only if every part was read as a whole."""
    sink = _Sink()
    archive = ZipFile(sink, "w")  # type: ignore[call-overload] # it neither seeks nor reads
    try:
        for part in parts:
            with archive.open(_entry(part, email.received_at), "w") as file:
                async for chunk in part.chunks:
                    await asyncio.to_thread(file.write, chunk)
                    for piece in sink.take():
                        yield piece
    except BaseException:
        archive.close()  # writes an end that nobody gets
        raise
    archive.close()
    for piece in sink.take():
        yield piece


class _Sink:
    """A file to write to, whose content is taken away piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: ZipFile calls it."""

    def take(self) -> list[bytes]:
        """Return the bytes written since the last call, in one piece; nothing if that was nothing."""
        taken, self._pieces = b"".join(self._pieces), []
        return [taken] if taken else []


async def _message_parts(
    storage: Storage, email: EmailDetail, content: MessageContent, names: Mapping[int, str]
) -> tuple[list[Part], list[dict[str, Any]]]:
    """Return the parts of the message itself, and the names of missing ones."""
    parts: list[Part] = []
    missing: list[dict[str, Any]] = []
    try:
        if content.view.text is not None:
            text = await content.text(storage)
            parts.append(_made("message.txt", text.encode(errors="replace")))
        if content.view.has_html:
            page = await message_html(
                await content.html(storage),
                email.attachments,
                lambda file: quote(names[file.position]),
                title=content.view.subject or "",
                sources=_BESIDE,
            )
            parts.append(_made("message.html", page.encode()))
    except Rejected as exc:
        name = "message.html" if parts else "message.txt"
        missing.append({"name": name, "code": exc.code, "reason": exc.message})
    if content.original:
        parts.append(await _stored(storage, "original.eml", content.original))
    else:
        missing.append({"name": "original.eml", **_no_original(content)})
    if content.record:
        parts.append(await _stored(storage, "record.json", content.record))
    return parts, missing


def _names(files: Sequence[AttachmentView]) -> list[str]:
    names = distinct_names((file.file_name, f"attachment-{file.position}") for file in files)
    return [f"{FOLDER}/{name}" for name in names]


async def _stored(storage: Storage, name: str, content: StoredContent, *, is_packed: bool = False) -> Part:
    return Part(name, content.size, content.sha256, await content.open(storage), is_packed)


def _made(name: str, content: bytes) -> Part:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    return Part(name, len(content), sha256(content).hexdigest(), chunks())


def _manifest(
    email: EmailDetail, parts: Sequence[Part], names: Mapping[int, str], missing: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    about = email.model_dump(mode="json", include={"id", "zendesk_ticket_id", "comment_id", "account_id"})
    about |= email.model_dump(mode="json", include={"processing_status", "error_code", "received_at"})
    message = email.message and email.message.model_dump(mode="json", exclude={"text"})
    hrefs = {"text_href", "html_href", "original_href", "record_href"}
    files = {names[file.position]: file for file in email.attachments if file.position in names}
    return {
        "email": about,
        "message": message and {name: value for name, value in message.items() if name not in hrefs},
        "files": [
            {"name": part.name, "size": part.size, "sha256": part.sha256, **_origin(files.get(part.name))}
            for part in parts
        ],
        "missing": missing,
    }


def _origin(file: AttachmentView | None) -> dict[str, Any]:
    if file is None:
        return {}
    return file.model_dump(
        mode="json", include={"position", "file_name", "detected_type", "inline", "malware"}
    )


def _no_original(content: MessageContent) -> dict[str, Any]:
    if content.record is None:
        return {"code": "message_not_found", "reason": "Zendesk's API was not asked."}
    code = content.original_error_code
    if code is None:
        return {
            "code": "message_not_found",
            "reason": "Nothing is known of it yet: a retry of the e-mail asks Zendesk.",
        }
    advice = advice_on(code)
    return {"code": code, "reason": advice.meaning if advice else "Zendesk did not give it."}


def _missing_file(file: AttachmentView) -> dict[str, Any]:
    return {
        **file.model_dump(mode="json", include={"position", "file_name", "status"}),
        "code": file.error_code,
        "reason": file.error,
    }


def _entry(part: Part, time: datetime) -> ZipInfo:
    time = min(max(time.astimezone(UTC), _EARLIEST), _LATEST)
    entry = ZipInfo(part.name, time.timetuple()[:6])
    entry.file_size = part.size  # a size of more than 2 GiB needs another format
    entry.compress_type = ZIP_DEFLATED
    # Its public name exists only since Python 3.13.
    entry._compresslevel = 0 if part.is_packed else 6  # type: ignore[attr-defined] # noqa: SLF001
    return entry
