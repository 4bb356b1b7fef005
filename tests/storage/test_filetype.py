"""The type of an object is detected from its bytes, for any bytes."""

import io
import random
import zipfile
from pathlib import Path

import puremagic
import pytest
from puremagic.main import magic_header_array

from service.storage import objects as storage
from service.storage.filetype import detect
from service.storage.objects import Storage, open_storage
from tests.support.places import SMALL, chunks


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    return open_storage((tmp_path / "objects").as_uri())


def _zip(**files: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


OLE = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600)
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


@pytest.mark.parametrize(
    ("content", "file_name", "kind"),
    [
        (SMALL, "invoice.pdf", "application/pdf"),
        (SMALL, None, "application/pdf"),
        (SMALL, "invoice.zip", "application/pdf"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "\0/../../x.pdf", "image/png"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(50), "x" * 10_000 + ".jpg", "image/jpeg"),
        (_zip(**{"a.txt": "hello"}), None, "application/zip"),
        (_zip(**{"a.txt": "hello"}), "a.docx", "application/zip"),
        (_zip(**{"a.bin": "x" * 3 * 1024**2}), "a.zip", "application/zip"),
        (_zip(**{"[Content_Types].xml": "x", "word/document.xml": "x"}), None, DOCX),
        (_zip(**{"pad": "x" * 3 * 1024**2, "[Content_Types].xml": "x", "xl/workbook.xml": "x"}), None, XLSX),
        (
            _zip(mimetype="application/vnd.oasis.opendocument.text", x="y"),
            None,
            "application/vnd.oasis.opendocument.text",
        ),
        (_zip(mimetype="x"), None, "application/zip"),
        (b"PK\x03\x04", "a.docx", "application/zip"),
        (OLE, None, "application/x-ole-storage"),
        (OLE, "a.doc", "application/msword"),
        (b"hello world", "a.txt", None),
        (b"BMW is a car", "a.txt", None),
        (b"", "a.pdf", None),
        (b"\0", "pyproject.toml", None),
    ],
)
async def test_the_bytes_tell_the_type(
    store: Storage, content: bytes, file_name: str | None, kind: str | None
) -> None:
    stored = await storage.put(store, chunks(content), file_name)

    assert stored.detected_type == kind


def test_a_signature_is_found_wherever_puremagic_finds_it() -> None:
    wrong = []
    for row in magic_header_array[::7]:
        content = bytes(row.offset) + row.byte_match + bytes(40_000)
        for name in ("", f"a{row.extension}", "a.pdf"):
            told = puremagic.magic_string(content, f"/dev/null/{name}" if name else None)
            told = [each for each in told if each.mime_type and (each.confidence == 0.9 or len(each[0]) > 2)]
            kind = detect(content, content[-64:], name)
            known = content.startswith((b"PK", bytes.fromhex("d0cf11e0a1b11ae1")))
            if not known and kind != (told[0].mime_type if told else None):
                wrong.append((row, name, kind))

    assert wrong == []


async def test_detection_accepts_any_bytes(store: Storage) -> None:
    chance = random.Random(2)
    beginnings = (b"", b"PK\x03\x04", b"PK\x05\x06", OLE[:8], b"%PDF", b"RIFF", b"<?xml", b"ID3")
    names = (None, "", ".", "a.tar.gz", "/etc/passwd", "a.\ud800", "a\n.pdf", "x" * 10_000 + ".zip")

    for _ in range(300):
        content = chance.choice(beginnings) + chance.randbytes(chance.randrange(200))
        stored = await storage.put(store, chunks(content), chance.choice(names))
        assert stored.size == len(content)
