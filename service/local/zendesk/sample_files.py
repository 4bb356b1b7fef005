"""Generate PDF, PNG and CSV files for the demo's e-mails."""

import random
import struct
import zlib
from dataclasses import dataclass

_CONTENT_TYPES = {"pdf": "application/pdf", "png": "image/png", "csv": "text/csv"}


@dataclass(frozen=True)
class SampleFile:
    name: str
    content: bytes
    content_type: str


def make(name: str, kilobytes: int, title: str, noise: random.Random) -> SampleFile:
    """Return a file of the type that its name tells, of about that size."""
    kind = name.rpartition(".")[2]
    content = {"pdf": _pdf, "png": _png, "csv": _csv}[kind](kilobytes * 1000, title, noise)
    return SampleFile(name, content, _CONTENT_TYPES[kind])


def _pdf(size: int, title: str, noise: random.Random) -> bytes:
    """Return one page with the title and a picture, of about `size` bytes."""
    width, height, pixels = _picture(size, noise)
    shown = title.encode("latin-1", "replace").replace(b"(", b"\\(").replace(b")", b"\\)")
    page = b"BT /F1 18 Tf 60 780 Td (%s) Tj ET q 475 0 0 600 60 150 cm /I Do Q" % shown
    image = b"/Type/XObject/Subtype/Image/Width %d/Height %d/ColorSpace/DeviceRGB/BitsPerComponent 8"
    resources = b"<</Font<</F1 6 0 R>>/XObject<</I 5 0 R>>>>"
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources %s>>" % resources,
        b"<</Length %d>>\nstream\n%s\nendstream" % (len(page), page),
        b"<<%s/Length %d>>\nstream\n%s\nendstream" % (image % (width, height), len(pixels), pixels),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    out, offsets = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"), []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    end = b"trailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(out))
    return bytes(out + b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table + end)


def _png(size: int, _title: str, noise: random.Random) -> bytes:
    width, height, pixels = _picture(size * 3 // 2, noise)  # compression removes a third
    rows = b"".join(b"\0" + pixels[at : at + width * 3] for at in range(0, len(pixels), width * 3))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows, 1)),
        (b"IEND", b""),
    )
    made = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def _csv(size: int, title: str, noise: random.Random) -> bytes:
    lines = ["number,date,description,amount"]
    for number in range(1, size // 45 + 2):
        amount = noise.randint(100, 99_999) / 100
        lines.append(f'{number},2026-{number % 12 + 1:02}-{number % 28 + 1:02},"{title}",{amount:.2f}')
    return ("\r\n".join(lines) + "\r\n").encode()


def _picture(size: int, noise: random.Random) -> tuple[int, int, bytes]:
    """Return width, height and RGB bytes of a grainy gradient."""
    width = max(4, int((size / 3) ** 0.5))
    grain_mask = int.from_bytes(b"\x0f" * width * 3)
    rows = []
    for y in range(width):
        shade = bytes((64 + 120 * y // width, 112, 208 - 96 * y // width)) * width
        grain = int.from_bytes(noise.randbytes(width * 3)) & grain_mask
        rows.append((int.from_bytes(shade) ^ grain).to_bytes(width * 3))
    return width, width, b"".join(rows)
