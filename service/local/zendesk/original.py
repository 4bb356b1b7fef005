"""Write an e-mail as it came, in the format of RFC 5322."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from uuid import uuid4

# A header is one line, and no halves of characters can be encoded.
_CONTROLS = re.compile("[\x00-\x1f\x7f\ud800-\udfff]+")
_CONTENT_TYPE = re.compile("(application|audio|font|image|text|video)/[A-Za-z0-9.+_-]+")


@dataclass(frozen=True)
class Part:
    """A file of an e-mail."""

    name: str
    content_type: str
    content: bytes


def original_of(
    headers: Mapping[str, str], text: str, html: str | None, inline: Sequence[Part], files: Sequence[Part]
) -> bytes:
    """Return the bytes of an e-mail; `cid:` and a file's name in `html` stands for an inline image."""
    message = EmailMessage(SMTP)
    for name, value in headers.items():
        if value:
            message[name] = _line(value)
    message.set_content(_clean(text))
    if html is not None:
        _add_html(message, html, inline)
    for part in files if html is not None else (*inline, *files):
        main, sub = _content_type(part)
        message.add_attachment(part.content, maintype=main, subtype=sub, filename=_line(part.name))
    return message.as_bytes()


def addresses(people: Sequence[tuple[str | None, str]]) -> str:
    """Return a header's list of people, each a name and an e-mail address."""
    quoted = ((re.sub(r'(["\\])', r"\\\1", name or ""), address) for name, address in people)
    return ", ".join(f'"{name}" <{address}>' if name else address for name, address in quoted)


def _add_html(message: EmailMessage, html: str, inline: Sequence[Part]) -> None:
    ids = {part.name: f"<{uuid4().hex}@acme.example>" for part in inline}
    for name, content_id in ids.items():
        html = html.replace(f"cid:{name}", f"cid:{content_id[1:-1]}")
    message.add_alternative(_clean(html), subtype="html")
    body = message.get_body(("html",))
    assert isinstance(body, EmailMessage)  # noqa: S101 it was just added
    for part in inline:
        main, sub = _content_type(part)
        body.add_related(
            part.content,
            maintype=main,
            subtype=sub,
            cid=ids[part.name],
            filename=_line(part.name),
            disposition="inline",
        )


def _content_type(part: Part) -> tuple[str, str]:
    known = part.content_type if _CONTENT_TYPE.fullmatch(part.content_type) else "application/octet-stream"
    main, _, sub = known.partition("/")
    return main, sub


def _line(text: str) -> str:
    return _CONTROLS.sub(" ", text)


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
