"""Make tickets, users and comments of e-mails as the API shows them.

https://developer.zendesk.com/api-reference/ticketing/tickets/ticket_comments/
https://developer.zendesk.com/documentation/ticketing/reference-guides/via-object-reference/
"""

import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from html import escape

from service.local.zendesk.original import Part, addresses, original_of
from service.local.zendesk.state import Original, ServedFile, StandInState, describe

SUPPORT = ("Acme Support", "support@acme.example")

Json = dict[str, object]
Person = tuple[str | None, str]  # name and e-mail address

_ACCOUNT = "21978514"
_BRAND = 360_000_112_233
_ULID = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PLACE = {"location": "Hamburg, HH, Germany", "latitude": 53.5544, "longitude": 9.9946}


@dataclass(frozen=True, kw_only=True)
class Email:
    """An e-mail that reaches Zendesk: as a new ticket, a reply, or a follow-up of the ticket `follows`."""

    subject: str
    sender: Person
    to: Person
    cc: Sequence[Person]  # those without a name are no users of the account
    text: str
    html: str | None  # `cid:` and a file's name stands for an inline image's address
    files: Sequence[ServedFile]
    inline: Sequence[ServedFile]
    outbound: bool  # an agent wrote it
    public: bool
    message_id: str | None
    created_at: datetime
    original: bytes | None  # made from the other fields if None
    channel: str | int
    follows: str | None


@dataclass(frozen=True, kw_only=True)
class WebComment:
    """A comment that somebody wrote in a browser or program."""

    author: Person
    role: str
    cc: Sequence[Person]
    text: str
    html: str | None
    files: Sequence[ServedFile]
    inline: Sequence[ServedFile]
    public: bool
    created_at: datetime
    channel: str | int


def add_email(state: StandInState, ticket_id: str, email: Email) -> int:
    """Add an e-mail to a ticket, which is made if new; return the comment's id."""
    author = state.user_id(*email.sender, "agent" if email.outbound else "end-user")
    ccs = [state.user_id(name, address) if name else address for name, address in email.cc]
    message_id = email.message_id or f"<{uuid.uuid4().hex}@{email.sender[1].rpartition('@')[2]}>"
    comment = _comment(state, email, author, via=_via(email, ccs), system=_system(message_id))
    requester = state.user_id(*email.to) if email.outbound else author
    _put(state, ticket_id, comment, requester, email)
    made = partial(_original, email, message_id)
    read = made if email.original is None else partial(bytes, email.original)
    state.originals[int(str(comment["audit_id"]))] = Original(ticket_id, read)
    return int(str(comment["id"]))


def add_web_comment(state: StandInState, ticket_id: str, web: WebComment) -> int:
    """Add a comment that is no e-mail to a ticket, which is made if new; return the comment's id."""
    author = state.user_id(*web.author, web.role)
    ccs = [state.user_id(name, address) for name, address in web.cc]
    source: Json = {"from": {}, "to": {"email_ccs": ccs} if ccs else {}, "rel": None}
    system = {"client": "Mozilla/5.0 (X11; Linux x86_64)", "ip_address": "198.51.100.7", **_PLACE}
    via: Json = {"channel": web.channel, "source": source}
    comment = _comment(state, web, author, via=via, system=system)
    _put(state, ticket_id, comment, author, None)
    return int(str(comment["id"]))


def timestamp(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _via(email: Email, ccs: Sequence[int | str]) -> Json:
    if email.follows is not None:
        ticket = int(email.follows) if email.follows.isdecimal() else email.follows
        source: Json = {"from": {"ticket_id": ticket}, "to": {}, "rel": "follow_up"}
        return {"channel": "web", "source": source}
    name, address = email.sender
    recipients = [email.to[1], *(each for _, each in email.cc)]
    source = {
        "from": {"address": address, "name": name, "original_recipients": recipients},
        "to": {"name": email.to[0], "address": email.to[1], "email_ccs": list(ccs)},
        "rel": None,
    }
    return {"channel": email.channel, "source": source}


def _system(message_id: str) -> Json:
    stored = f"{_ACCOUNT}/{uuid.uuid4()}"
    return {
        "message_id": message_id,
        "email_id": "01" + "".join(secrets.choice(_ULID) for _ in range(24)),
        "raw_email_identifier": f"{stored}.eml",
        "json_email_identifier": f"{stored}.json",
        "eml_redacted": False,
        "ip_address": "198.51.100.25",
        **_PLACE,
    }


def _html(state: StandInState, text: str, html: str | None, inline: Sequence[ServedFile]) -> str:
    """Return the HTML of a comment as Zendesk shows it, with the addresses of its inline images."""
    if html is None:
        paragraphs = (escape(part).replace("\n", "<br>") for part in text.strip().split("\n\n"))
        html = "".join(f'<p dir="auto">{part}</p>' for part in paragraphs)
    for file in inline:
        address = f"{state.account_url}{file.path}"
        image = f'<img src="{address}" alt="{escape(file.name)}">'
        reference = f"cid:{file.name}"
        html = html.replace(reference, address) if reference in html else html + image
    if html.startswith('<div class="zd-comment'):
        return html
    return f'<div class="zd-comment" dir="auto">{html}</div>'


def _comment(state: StandInState, said: Email | WebComment, author: int, *, via: Json, system: Json) -> Json:
    files = [describe(state, file) for file in said.files]
    return {
        "id": next(state.ids),
        "type": "Comment",
        "author_id": author,
        "body": said.text,
        "html_body": _html(state, said.text, said.html, said.inline),
        "plain_body": said.text,
        "public": said.public,
        "attachments": files + [describe(state, file, inline=True) for file in said.inline],
        "audit_id": next(state.ids),
        "via": via,
        "created_at": timestamp(said.created_at),
        "metadata": {"system": system, "custom": {}, "flags": [], "flags_options": {}, "trusted": True},
    }


def _put(state: StandInState, ticket_id: str, comment: Json, requester: int, email: Email | None) -> None:
    """Add a comment to its ticket, which is made if new."""
    state.comments.setdefault(ticket_id, []).append(comment)
    ticket = state.tickets.get(ticket_id)
    if ticket is None:
        ticket = state.tickets[ticket_id] = _ticket(state, ticket_id, comment, requester, email)
    state.note_comment(ticket_id, comment)
    ticket["updated_at"] = max(str(ticket["updated_at"]), str(comment["created_at"]))
    known = ticket["email_cc_ids"]
    match comment["via"], known:
        case {"source": {"to": {"email_ccs": [*ccs]}}}, [*before]:
            ids = dict.fromkeys([*before, *(each for each in ccs if isinstance(each, int))])
            ticket["email_cc_ids"] = ticket["collaborator_ids"] = list(ids)
    if email is not None and email.follows is not None and email.follows in state.tickets:
        followed = state.tickets[email.follows]["followup_ids"]
        if isinstance(followed, list) and ticket["id"] not in followed:
            followed.append(ticket["id"])


def _ticket(state: StandInState, ticket_id: str, comment: Json, requester: int, email: Email | None) -> Json:
    subject = email.subject if email else "A ticket from the web"
    recipient = email.to[1] if email and not email.outbound else None
    return {
        "id": int(ticket_id) if ticket_id.isdecimal() else ticket_id,
        "url": f"{state.account_url}/api/v2/tickets/{ticket_id}.json",
        "external_id": None,
        "via": comment["via"],
        "created_at": comment["created_at"],
        "updated_at": comment["created_at"],
        "type": None,
        "subject": subject,
        "raw_subject": subject,
        "description": comment["plain_body"],
        "priority": None,
        "status": "open",
        "recipient": recipient,
        "requester_id": requester,
        "submitter_id": comment["author_id"],
        "assignee_id": None,
        "organization_id": None,
        "group_id": None,
        "collaborator_ids": [],
        "follower_ids": [],
        "email_cc_ids": [],
        "brand_id": _BRAND,
        "followup_ids": [],
        "is_public": comment["public"],
        "tags": [],
        "custom_fields": [],
    }


def _original(email: Email, message_id: str) -> bytes:
    def parts(files: Sequence[ServedFile]) -> list[Part]:
        return [Part(file.name, file.content_type, file.content) for file in files]

    headers = {
        "From": addresses([email.sender]),
        "To": addresses([email.to]),
        "Cc": addresses(email.cc),
        "Subject": email.subject,
        "Date": format_datetime(email.created_at.astimezone(UTC)),
        "Message-ID": message_id,
    }
    return original_of(headers, email.text, email.html, parts(email.inline), parts(email.files))
