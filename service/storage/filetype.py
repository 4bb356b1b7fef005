"""Tell a file's type by what it begins with; what the sender calls it only decides between equals."""

import re

import puremagic

_SUFFIX = re.compile(r"(\.[a-z0-9]{1,3})?\.[a-z0-9]{1,10}$")
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # doc, xls, ppt, msg and more
_OFFICE = "application/vnd.openxmlformats-officedocument."
_OFFICE_FOLDERS = (
    (b"word/", f"{_OFFICE}wordprocessingml.document"),
    (b"xl/", f"{_OFFICE}spreadsheetml.sheet"),
    (b"ppt/", f"{_OFFICE}presentationml.presentation"),
)


def detect(head: bytes, tail: bytes, file_name: str | None) -> str | None:
    """Give the media type, or None if the bytes do not say."""
    if head.startswith(_ZIP):
        return _zip_type(head + tail)
    suffix = _SUFFIX.search((file_name or "").lower())
    # Given a name that exists puremagic would open that file: this one cannot.
    hint = f"/dev/null/x{suffix[0]}" if suffix else None
    try:
        matches = puremagic.magic_string(head + tail, hint)
    except (puremagic.PureError, ValueError):  # nothing fits, or no bytes at all
        return None
    for match in matches:
        agreed = match.byte_match and match.confidence > 0.8  # with the name
        # Two bytes are too little to go by: "BMW" is no bitmap.
        if match.mime_type and (agreed or len(match.byte_match) > 2):
            return (
                str(match.mime_type) if agreed or not head.startswith(_OLE) else "application/x-ole-storage"
            )
    return None


def _zip_type(sample: bytes) -> str:
    # puremagic takes every zip for a docx or a jar. OpenDocument and EPUB say what they are in a first entry that
    # is not compressed: its length is at 18, its name at 30, its content at 38.
    if sample[30:38] == b"mimetype":
        text = sample[38 : 38 + int.from_bytes(sample[18:22], "little")]
        if re.fullmatch(rb"application/[\w.+-]{1,100}", text):
            return text.decode()
    if b"[Content_Types].xml" in sample:
        return next((kind for folder, kind in _OFFICE_FOLDERS if folder in sample), "application/zip")
    return "application/zip"
