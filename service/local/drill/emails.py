"""Whole e-mails of every kind: they reach the stand-in, and a trigger announces them as the README recommends."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from service.local.drill.ledger import Person, SentEmail, Webhook
from service.local.zendesk.mail import SUPPORT, timestamp
from service.local.zendesk.stand_in import Zendesk

# The number of webhooks of those kinds that have several.
SEVERAL = {"pair": 2, "event": 3}
KINDS = ("whole", "comment", "follow-up", "reply", "agent", "pair", "event", "dead", "redacted", "malware")

_AGENT = ("Jana Roth", "jana@acme.example")
_WORDS = (
    *(
        "Rechnung",
        "Kündigung",
        "Straße",
        "café",
        "invoice",
        "delivery",
        "naïve",
        "発注書",
        "contract",
        "Größe",
    ),
    *("broken", "glass", "tomorrow", "V-4711", "Zählerstand", "reminder", "RE", "2026/1003", "thanks", "<b>"),
)
_MOST_FILE_BYTES = 24_000
_LONG_WORDS = 12_000  # a text that is longer than the part in Postgres
_PAIR_SECONDS = 20  # between the two e-mails of a pair

# Codes of e-mails with a file that Zendesk does not give out.
_CODES = {"redacted": "redacted", "malware": "malware_found"}
Made = tuple[list[SentEmail], list[Webhook]]


@dataclass(frozen=True)
class EmailMaker:
    """Makes the e-mails of one ticket, and the webhooks that announce them."""

    zendesk: Zendesk
    kind: str
    ticket: str
    chance: Random

    def make(self, webhooks: int) -> Made:
        """Make e-mails that so many webhooks announce; an agent's comment is no e-mail."""
        if self.kind == "agent":
            text = _text(self.chance)
            comment = self.zendesk.add_comment(self.ticket, channel="web", body=text, author=_AGENT)
            return [], [self._webhook(self.zendesk.announcement(self.ticket, comment), None)]
        if self.kind == "pair":
            return self._pair(webhooks)
        files = self._add_files("pdf", webhooks if self.kind == "event" else self._number_of_files())
        email = self._email(1, files)
        return [email], [
            self._webhook(body, email) for body in self._bodies(email, [*files][:webhooks], webhooks)
        ]

    def _number_of_files(self) -> int:
        least = {"dead": 1, "redacted": 2, "malware": 2}.get(self.kind, 0)
        return max(least, self.chance.choice((0, 1, 1, 2, 4)))

    def _bodies(self, email: SentEmail, urls: Sequence[str], webhooks: int) -> list[dict[str, Any]]:
        comment = email.comment_id
        if self.kind == "event":  # one for each file
            events = [self.zendesk.event(url, ticket_id=self.ticket) for url in urls[:webhooks]]
            for event in events:
                event["event"]["comment"]["id"] = comment
            return events
        if self.kind == "comment":  # as earlier versions recommended
            return [{"ticket_id": self.ticket, "comment_id": comment}]
        if self.kind == "dead":
            name, address = email.sender
            told = {"subject": email.subject, "from_name": name, "from_email": address, "comment_id": comment}
            return [self.zendesk.payload(ticket_id=self.ticket, attachments=urls, **told)]
        return [self.zendesk.announcement(self.ticket, comment)]

    def _pair(self, webhooks: int) -> Made:
        """Make two e-mails in quick succession: both webhooks name the second, or one of them none."""
        emails = [self._email(number, self._add_files(f"{number}.pdf", 1)) for number in (1, 2)]
        second = emails[1].comment_id
        named = [second, self.chance.choice((second, ""))][:webhooks]
        now = datetime.now(UTC)
        bodies = [
            self.zendesk.announcement(
                self.ticket, comment, updated_at=timestamp(now - timedelta(seconds=ago))
            )
            for ago, comment in enumerate(named)
        ]
        return emails, [
            self._webhook(body, emails[1] if comment else None)
            for body, comment in zip(bodies, named, strict=True)
        ]

    def _webhook(self, body: Mapping[str, Any], email: SentEmail | None) -> Webhook:
        files, code = (email.files, email.code) if email else ((), None)
        return Webhook(self.ticket, self.kind, json.dumps(body).encode(), files, code, email=email)

    def _email(self, number: int, files: Mapping[str, bytes]) -> SentEmail:
        chance, is_reply = self.chance, self.kind == "reply"
        customer: Person = (f"Käthe Müller {self.ticket}", f"kaethe.{self.ticket}@customer.example")
        sender, to = (_AGENT, customer) if is_reply else (customer, SUPPORT)
        subject, text = f"Rechnung RE {self.ticket}", f"{number} {_text(chance)}"
        message_id = f"<{self.ticket}.{number}@customer.example>"
        inline = self._add_files(f"{number}.png", chance.choice((0, 0, 1)))
        original = f"From: {sender[1]}\r\nMessage-ID: {message_id}\r\n\r\n{text}".encode()
        follows = self._add_closed_ticket() if self.kind == "follow-up" else None
        cc = [] if follows else self._copied()
        comment_id = self.zendesk.add_email(
            self.ticket,
            subject=f"Re: {subject}" if number > 1 else subject,
            from_name=str(sender[0]),
            from_address=sender[1],
            to=to,
            cc=cc,
            text=text,
            html=f"<p><b>{number}</b> Grüße</p><img src='cid:{self.ticket}-0.{number}.png'>"
            if inline
            else None,
            attachments=files,
            inline=inline,
            outbound=is_reply,
            message_id=message_id,
            created_at=datetime.now(UTC)
            - timedelta(seconds=_PAIR_SECONDS if number == 1 and self.kind == "pair" else 0),
            original=original,
            follows=follows,
        )
        withheld = self._change([*files])
        kept = [content for url, content in {**files, **inline}.items() if url not in withheld]
        return SentEmail(
            ticket_id=self.ticket,
            comment_id=str(comment_id),
            kind=self.kind,
            record=self._record(comment_id),
            direction="outbound" if is_reply else "inbound",
            subject=subject,
            sender=sender,
            to=[(None, SUPPORT[1])] if follows else [to],
            cc=cc,
            message_id=message_id,
            text=text,
            original=original,
            files=[hashlib.sha256(content).hexdigest() for content in kept],
            withheld=len(withheld),
            code=_CODES.get(self.kind),
        )

    def _change(self, urls: Sequence[str]) -> list[str]:
        """Change the first file as the kind requires; return the addresses of files that Zendesk does not give out."""
        state = self.zendesk.state
        if self.kind == "dead":
            state.expire(urls[0])
        elif self.kind == "redacted":
            state.redact(urls[0])
        elif self.kind == "malware":
            state.scan(urls[0], "malware_found")
        return [*urls[:1]] if self.kind in _CODES else []

    def _record(self, comment_id: int) -> bytes:
        comments = self.zendesk.state.comments[self.ticket]
        (comment,) = (each for each in comments if each["id"] == comment_id)
        return json.dumps(comment, ensure_ascii=False).encode()

    def _add_closed_ticket(self) -> str:
        """Add a ticket that nobody announces; return its id."""
        closed = f"9{self.ticket}"
        self.zendesk.add_comment(closed, body="Solved.", channel="web")
        return closed

    def _copied(self) -> list[Person]:
        known: Person = (f"Søren Åberg {self.ticket}", f"soeren.{self.ticket}@customer.example")
        unknown: Person = (None, f"office.{self.ticket}@customer.example")
        return self.chance.choice(([], [known], [known, unknown]))

    def _add_files(self, ending: str, number: int) -> dict[str, bytes]:
        """Add files; return their contents by address."""
        start = b"\x89PNG\r\n\x1a\n" if ending.endswith("png") else b"%PDF-1.7\n"
        contents = [
            start + self.chance.randbytes(self.chance.randint(8, _MOST_FILE_BYTES)) for _ in range(number)
        ]
        return {
            self.zendesk.add_file(f"{self.ticket}-{position}.{ending}", content): content
            for position, content in enumerate(contents)
        }


def _text(chance: Random) -> str:
    words = _LONG_WORDS if chance.random() < 0.05 else chance.randint(5, 200)
    return " ".join(chance.choices(_WORDS, k=words)) + "\n\nMit freundlichen Grüßen\nKäthe Müller\n"
