"""Detect a file's type by its first bytes; the sender's file name only decides between equal matches."""

import re
from collections import defaultdict
from collections.abc import Iterator

from puremagic.main import PureMagic, magic_footer_array, magic_header_array, multi_part_dict

_SUFFIX = re.compile(r"((\.[a-z0-9]{3})?(\.[a-z0-9]{1,10}))$")
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # doc, xls, ppt, msg and more
_OFFICE = "application/vnd.openxmlformats-officedocument."
_OFFICE_FOLDERS = (
    (b"word/", f"{_OFFICE}wordprocessingml.document"),
    (b"xl/", f"{_OFFICE}spreadsheetml.sheet"),
    (b"ppt/", f"{_OFFICE}presentationml.presentation"),
)

# By position and then by bytes: puremagic itself compares with 1,500 signatures, one by one.
_HEADERS: dict[tuple[int, int], dict[bytes, list[PureMagic]]] = defaultdict(lambda: defaultdict(list))
for _row in magic_header_array:
    _HEADERS[_row.offset, _row.offset + len(_row.byte_match)][_row.byte_match].append(_row)
_EXTENSIONS = {row.extension for row in (*magic_header_array, *magic_footer_array)}


def detect(head: bytes, tail: bytes, file_name: str | None) -> str | None:
    """Return the media type, or None if the bytes do not tell."""
    if head.startswith(_ZIP):
        return _zip_type(head + tail)
    suffix = _suffix(file_name or "")
    found = _signatures(head, tail)
    for match in sorted(found, key=lambda row: (row.extension == suffix, len(row.byte_match)), reverse=True):
        agreed = match.extension == suffix
        # Two bytes alone prove too little: "BMW" is not a bitmap.
        if match.mime_type and (agreed or len(match.byte_match) > 2):
            return (
                str(match.mime_type) if agreed or not head.startswith(_OLE) else "application/x-ole-storage"
            )
    return None


def _suffix(file_name: str) -> str | None:
    """Return the end of a name, such as `.tar.gz` if that is a known one."""
    found = _SUFFIX.search(file_name.lower())
    return found and (found[1] if found[1] in _EXTENSIONS else found[3])


def _signatures(head: bytes, tail: bytes) -> Iterator[PureMagic]:
    """Find the matching signatures, also those of two parts."""
    headers = (row for (start, end), rows in _HEADERS.items() for row in rows.get(head[start:end], ()))
    first = sorted(headers, key=lambda row: row.byte_match)
    first += [row for row in magic_footer_array if _is_at(tail, row)]
    yield from first
    for row in first:
        for part in multi_part_dict.get(row.byte_match, ()):
            if part.offset < 0 and _is_at(tail, part):
                yield part._replace(byte_match=row.byte_match + part.byte_match)
            elif part.offset >= 0 and _is_at(head, part):
                yield part._replace(byte_match=head[row.offset : part.offset + len(part.byte_match)])


def _is_at(sample: bytes, row: PureMagic) -> bool:
    end = row.offset + len(row.byte_match)
    return bool(sample[row.offset : end or None] == row.byte_match)


def _zip_type(sample: bytes) -> str:
    # puremagic takes every zip for a docx or a jar. OpenDocument and EPUB name their type in an uncompressed
    # first entry: its length is at 18, its name at 30, its content at 38.
    if sample[30:38] == b"mimetype":
        text = sample[38 : 38 + int.from_bytes(sample[18:22], "little")]
        if re.fullmatch(rb"application/[\w.+-]{1,100}", text):
            return text.decode()
    if b"[Content_Types].xml" in sample:
        return next((kind for folder, kind in _OFFICE_FOLDERS if folder in sample), "application/zip")
    return "application/zip"
