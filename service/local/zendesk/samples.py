"""Twenty e-mails for the demo: of customers and of an agent, with text, HTML, inline images and attachments."""

import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from service.local.zendesk.sample_files import SampleFile, make

_LOGO = "logo.png"  # the same bytes in several e-mails, so that one object is stored
_AGENT = "Jana Roth"
_GERMAN = "Mit freundlichen Grüßen"

Files = Sequence[tuple[str, int]]  # names with their approximate size in kB


@dataclass(frozen=True)
class Sample:
    """An e-mail of the demo."""

    subject: str
    from_name: str
    from_address: str
    to: tuple[str, str]
    cc: Sequence[tuple[str | None, str]]
    text: str
    html: str | None
    files: Sequence[SampleFile]
    inline: Sequence[SampleFile]
    ticket: int  # the number of its ticket, from 1
    follows: int | None  # the number of a closed ticket that this one continues
    outbound: bool


@dataclass(frozen=True)
class _Email:
    subject: str
    sender: str
    text: str
    files: Files = ()
    inline: Files = ()  # with these the e-mail has HTML
    cc: Sequence[str] = ()  # names, or addresses that are no users
    ticket: int = 0  # 0 for one of its own
    follows: int | None = None
    to: str = ""
    closing: str = "Kind regards"


_DAMAGED, _CANCELLED = 2, 7  # the tickets with more than one e-mail

_EMAILS = (
    _Email(
        "Invoice RE 2026/1003",
        "Mara Lindqvist",
        "Dear accounts team,\n\nplease find attached our invoice RE 2026/1003 over 4,280.00 EUR for the contract"
        " V-4711. It is due on 15 December.",
        [("invoice-2026-1003.pdf", 84)],
        [(_LOGO, 12)],
        cc=["Nils Berg", "office@lindqvist.example"],
    ),
    _Email(
        "Parcel arrived damaged",
        "Tom Okafor",
        "Hello,\n\nthe parcel of order 55-1990 arrived today with a broken corner, and two of the six glasses are"
        " in pieces. The photos show it from the front and from the side.",
        [("front.png", 900), ("side.png", 1400), ("delivery note.pdf", 60)],
        ticket=_DAMAGED,
    ),
    _Email(
        "Re: Return of order 55-2031",
        "Aiko Tanaka",
        "Hello,\n\nthe label that you sent me cannot be scanned at the post office. Could you send a new one?",
        [("return-label.pdf", 45)],
    ),
    _Email(
        "Meter readings November",
        "Stadtwerke Nord",
        "Sehr geehrte Damen und Herren,\n\nanbei die Zählerstände aller Zähler für November. Die Rechnung"
        " RE 2026/1044 folgt getrennt.",
        [("readings.csv", 310)],
        [(_LOGO, 12)],
        closing=_GERMAN,
    ),
    _Email(
        "Signed contract V-4711",
        "Ines Carvalho",
        "Dear Jana,\n\nhere is the contract V-4711, signed by both of us, and annex A with the prices.",
        [("contract-signed.pdf", 2600), ("annex A.pdf", 480)],
        cc=["Mara Lindqvist"],
    ),
    _Email(
        "Re: Parcel arrived damaged",
        _AGENT,
        "Dear Tom,\n\nI am sorry about that. A new parcel leaves today; please keep the broken glasses until the"
        " courier calls, and put the attached label on the box.",
        [("return label.pdf", 38)],
        ticket=_DAMAGED,
        to="Tom Okafor",
    ),
    _Email(
        "Kündigung zum 31.12.",
        "Jörg Häußler",
        "Guten Tag,\n\nhiermit kündige ich meinen Vertrag zum 31.12.2026. Bitte bestätigen Sie mir die Kündigung"
        " schriftlich.",
        [("Kündigung.pdf", 33)],
        ticket=_CANCELLED,
        closing=_GERMAN,
    ),
    _Email(
        "Cannot log in (screenshot)",
        "Pavel Novák",
        "Hi,\n\nsince yesterday the customer portal answers 'Session expired' to every attempt. See the picture"
        " below.",
        inline=[("Bildschirmfoto 2026-11-20.png", 700)],
    ),
    _Email(
        "Re: Kündigung zum 31.12.",
        "Jörg Häußler",
        "Guten Tag,\n\nich hatte die Vertragsnummer vergessen: Es geht um V-4712. Die Vollmacht meiner Frau liegt"
        " bei.",
        [("Vollmacht.pdf", 52)],
        ticket=_CANCELLED,
        closing=_GERMAN,
    ),
    _Email(
        "Warranty claim, serial 88213-B",
        "Lucía Ferrer",
        "Hola,\n\nthe machine with the serial number 88213-B stops after ten minutes. I bought it in March; the"
        " receipt and a photo of the defect are attached.",
        [("receipt.pdf", 120), ("defect.png", 2100)],
    ),
    _Email(
        "Travel expenses October",
        "Noah Stein",
        "Hi all,\n\nmy expenses for October: the list, the train tickets and the bill of the hotel.",
        [("expenses.csv", 18), ("tickets.pdf", 1300), ("hotel.pdf", 260)],
        cc=["Lena Vogt", "Nils Berg"],
    ),
    _Email(
        "Reminder: invoice RE 2026/0944",
        "Mara Lindqvist",
        "Dear accounts team,\n\nour invoice RE 2026/0944 of 2 October is still open. If you have paid it in the"
        " meantime, please ignore this reminder.",
        [("reminder.pdf", 71)],
        [(_LOGO, 12)],
        cc=["Nils Berg"],
    ),
    _Email(
        "Floor plan, second floor",
        "Atelier Moreau",
        "Bonjour,\n\nthe plan of the second floor with the changes that we discussed on Tuesday.",
        [("floor-2.png", 3100)],
    ),
    _Email(
        "New bank details",
        "Oleksandr Bondar",
        "Dear Sir or Madam,\n\nfrom 1 December please pay to our new account. The confirmation of the bank is"
        " attached; call me if you have doubts.",
        [("bank-confirmation.pdf", 150)],
    ),
    _Email(
        "Export of our contacts",
        "Brightwater Ltd",
        "Hello,\n\nas agreed, the export of our contacts as CSV.",
        [("contacts.csv", 820)],
        [(_LOGO, 12)],
    ),
    _Email(
        "Complaint no. 7731",
        "Grace Mbeki",
        "To whom it may concern,\n\nthis is my third letter about complaint no. 7731. The photos were taken this"
        " morning.",
        [("photo-1.png", 1100), ("photo-2.png", 950), ("letter.pdf", 40)],
    ),
    _Email(
        "VAT certificate",
        "Nordlys AS",
        "Hei,\n\nattached is our VAT certificate for 2026.",
        [("vat.pdf", 210)],
    ),
    _Email(
        "Sensor log of the incident",
        "Wim de Vries",
        "Hello,\n\nthe log of sensor 14 from 02:00 to 04:00. The peak is at line 20,117.",
        [("sensor.csv", 1900)],
    ),
    _Email(
        "発注書 / purchase order",
        "Kobayashi Trading",
        "お世話になっております。\n\n発注書をお送りいたします。ご確認ください。",
        [("発注書.pdf", 390)],
        closing="よろしくお願いいたします。",
    ),
    _Email(
        "Thank you!",
        "Tom Okafor",
        "Hello Jana,\n\nthe new parcel is here, and everything is whole. Thank you!",
        [("new parcel.png", 600)],
        follows=_DAMAGED,
    ),
)


def samples() -> list[Sample]:
    """Return the e-mails, the same ones in each run."""
    noise = random.Random(20261122)  # noqa: S311 pictures, not secrets
    logo = make(_LOGO, 12, "Brightwater", noise)

    def made(files: Files, title: str) -> list[SampleFile]:
        return [logo if name == _LOGO else make(name, size, title, noise) for name, size in files]

    return [
        Sample(
            subject=each.subject,
            from_name=each.sender,
            from_address=_address(each.sender),
            to=(each.to, _address(each.to)) if each.to else ("Acme Support", "support@acme.example"),
            cc=[(None, name) if "@" in name else (name, _address(name)) for name in each.cc],
            text=f"{each.text}\n\n{each.closing}\n{each.sender}\n",
            html=_html(each) if each.inline else None,
            files=made(each.files, each.subject),
            inline=made(each.inline, each.subject),
            ticket=each.ticket or number,
            follows=each.follows,
            outbound=each.sender == _AGENT,
        )
        for number, each in enumerate(_EMAILS, 1)
    ]


def _address(name: str) -> str:
    spelt = name.lower().translate({ord("ä"): "ae", ord("ö"): "oe", ord("ü"): "ue", ord("ß"): "ss"})
    plain = unicodedata.normalize("NFKD", spelt).encode("ascii", "ignore").decode()
    return f"{re.sub('[^a-z]+', '.', plain)}@{'acme' if name == _AGENT else 'customer'}.example"


def _html(email: _Email) -> str:
    """Return the text as HTML, with the inline images at its end."""
    paragraphs = "".join(f"<p>{escape(part)}</p>" for part in email.text.split("\n\n"))
    images = "".join(f'<p><img src="cid:{escape(name)}" alt=""></p>' for name, _ in email.inline)
    return f"{paragraphs}<p>{escape(email.closing)}<br><strong>{escape(email.sender)}</strong></p>{images}"
