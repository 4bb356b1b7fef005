"""Twenty e-mails for the demo, with generated PDF, PNG and CSV files as attachments."""

import random
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

_LOGO = "logo.png"  # the same bytes in several e-mails, so that one object is stored
_CONTENT_TYPES = {"pdf": "application/pdf", "png": "image/png", "csv": "text/csv"}

# subject, sender, and files with their approximate size in kB
_EMAILS: Sequence[tuple[str, str, Sequence[tuple[str, int]]]] = (
    ("Invoice 2026-1187", "Mara Lindqvist", [("invoice-2026-1187.pdf", 84), (_LOGO, 12)]),
    (
        "Parcel arrived damaged",
        "Tom Okafor",
        [("front.png", 900), ("side.png", 1400), ("delivery note.pdf", 60)],
    ),
    ("Re: Return of order 55-2031", "Aiko Tanaka", [("return-label.pdf", 45)]),
    ("Meter readings November", "Stadtwerke Nord", [("readings.csv", 310)]),
    ("Signed contract", "Ines Carvalho", [("contract-signed.pdf", 2600), ("annex A.pdf", 480)]),
    ("Cannot log in (screenshot)", "Pavel Novák", [("Bildschirmfoto 2026-11-20.png", 700)]),
    ("Price list request", "Brightwater Ltd", [(_LOGO, 12), ("articles.csv", 95)]),
    ("Kündigung zum 31.12.", "Jörg Häußler", [("Kündigung.pdf", 33)]),
    ("Warranty claim, serial 88213-B", "Lucía Ferrer", [("receipt.pdf", 120), ("defect.png", 2100)]),
    (
        "Travel expenses October",
        "Noah Stein",
        [("expenses.csv", 18), ("tickets.pdf", 1300), ("hotel.pdf", 260)],
    ),
    ("Reminder: invoice 2026-0944", "Mara Lindqvist", [("reminder.pdf", 71), (_LOGO, 12)]),
    ("Floor plan, second floor", "Atelier Moreau", [("floor-2.png", 3100)]),
    ("New bank details", "Oleksandr Bondar", [("bank-confirmation.pdf", 150)]),
    ("Export of our contacts", "Brightwater Ltd", [("contacts.csv", 820), (_LOGO, 12)]),
    ("Complaint no. 7731", "Grace Mbeki", [("photo-1.png", 1100), ("photo-2.png", 950), ("letter.pdf", 40)]),
    ("VAT certificate", "Nordlys AS", [("vat.pdf", 210)]),
    ("Sensor log of the incident", "Wim de Vries", [("sensor.csv", 1900)]),
    ("Order confirmation 55-2077", "Aiko Tanaka", [("confirmation.pdf", 66), (_LOGO, 12)]),
    ("発注書 / purchase order", "Kobayashi Trading", [("発注書.pdf", 390)]),
    ("Thank you!", "Tom Okafor", [("new parcel.png", 600), ("signature.png", 1)]),
)


@dataclass(frozen=True)
class SampleFile:
    name: str
    content: bytes
    content_type: str


@dataclass(frozen=True)
class Sample:
    """An e-mail of the demo."""

    subject: str
    from_name: str
    files: Sequence[SampleFile]


def samples() -> list[Sample]:
    """Return the e-mails, the same ones in each run."""
    noise = random.Random(20261122)  # noqa: S311 pictures, not secrets
    logo = _make(_LOGO, 12, "Brightwater", noise)
    return [
        Sample(
            subject,
            name,
            [logo if file == _LOGO else _make(file, size, subject, noise) for file, size in files],
        )
        for subject, name, files in _EMAILS
    ]


def _make(name: str, kilobytes: int, title: str, noise: random.Random) -> SampleFile:
    kind = name.rpartition(".")[2]
    make = {"pdf": _pdf, "png": _png, "csv": _csv}[kind]
    return SampleFile(name, make(kilobytes * 1000, title, noise), _CONTENT_TYPES[kind])


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
