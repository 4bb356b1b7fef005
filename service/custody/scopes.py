"""The scope of an erasure: all of a sender, of a ticket, one e-mail, or one file; and the e-mails in it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy import BigInteger, Text, TextClause, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.custody.mentions import Mentions
from service.errors import Rejected
from service.postgres.selection import MOST_SENDER, MOST_TICKET, sender_address, ticket_number

ScopeKind = Literal["sender", "ticket", "email", "file", "zendesk"]
# Zendesk restores a deleted ticket within this time, if somebody asks for it.
RESTORABLE_DAYS = 30
_MOST_ID = 2**63 - 1
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Scope:
    """What is to be erased: the address of a sender, a ticket, the id of an e-mail, or a file's SHA-256.

    Of the kind `zendesk`, the subject is "deleted": all that Zendesk deleted for good.
    """

    kind: ScopeKind
    subject: str

    @property
    def is_file(self) -> bool:
        return self.kind == "file"

    def mentions(self, comments: Sequence[str]) -> Mentions:
        """Return what bodies in quarantine may mention, with the comments of the e-mails in scope."""
        address = self.subject if self.kind == "sender" else None
        ticket = self.subject if self.kind == "ticket" else None
        return Mentions(address, ticket, frozenset(comments))


DELETED_IN_ZENDESK = Scope("zendesk", "deleted")


def scope_of(given: dict[str, str | int | None]) -> Scope:
    """Make a scope of the one that is given of sender, ticket, email, file and zendesk; raises Rejected (422)."""
    chosen = [(kind, str(given[kind]).strip()) for kind in get_args(ScopeKind) if given.get(kind) is not None]
    if len(chosen) != 1:
        raise Rejected(422, "erasure_scope", "Give exactly one of sender, ticket, email, file and zendesk.")
    [(kind, subject)] = chosen
    is_fit = {
        "sender": len(subject) <= MOST_SENDER,
        "ticket": len(subject) <= MOST_TICKET,
        "email": subject.isdecimal() and int(subject) <= _MOST_ID,
        "file": bool(_SHA256.fullmatch(subject)),
        "zendesk": subject == DELETED_IN_ZENDESK.subject,
    }[kind]
    if not is_fit:
        raise Rejected(422, "erasure_scope", f"This is no {_NAMES[kind]}.")
    try:
        return Scope(kind, _EXACT.get(kind, str)(subject))
    except ValueError as exc:
        raise Rejected(422, "erasure_scope", f"The {kind} {exc}.") from None


async def emails_in(conn: AsyncConnection, scope: Scope, after: int, last: int, limit: int) -> list[int]:
    """Return the next e-mails in the scope, up to the id `last`; of a file, those that have it."""
    given = {"subject": scope.subject, "after": after, "last": last, "limit": limit}
    return list(await conn.scalars(_EMAILS[scope.kind], given))


async def with_copies(conn: AsyncConnection, email_ids: Sequence[int]) -> list[int]:
    """Add other rows of the same comments, which are not merged yet."""
    return sorted({*email_ids, *await conn.scalars(_COPIES, {"email_ids": list(email_ids)})})


async def comments_of(conn: AsyncConnection, email_ids: Sequence[int]) -> list[str]:
    """Return the comments of e-mails."""
    return list(await conn.scalars(_COMMENTS, {"email_ids": list(email_ids)}))


# The same rule as of holds: what a hold would refuse, an erasure would not find.
_EXACT: dict[str, Callable[[str], str]] = {"sender": sender_address, "ticket": ticket_number}
_NAMES = {
    "sender": f"address of at most {MOST_SENDER} characters",
    "ticket": f"ticket of at most {MOST_TICKET} characters",
    "email": "id of an e-mail",
    "zendesk": "state in Zendesk that can be erased; only `deleted` can",
    "file": "SHA-256: that has 64 hexadecimal digits, in lower case",
}
_NEXT = "{id} > :after AND {id} <= :last ORDER BY {id} LIMIT :limit"


def _statement(sql: str) -> TextClause:
    return text(sql).bindparams(
        bindparam("subject", type_=Text()),
        *(bindparam(name, type_=BigInteger()) for name in ("after", "last", "limit")),
    )


def sender_is(column: str) -> str:
    """Write the condition that a column has the address of the scope; an index has its first part."""
    return f"left(lower({column}), 400) = left(lower(:subject), 400) AND lower({column}) = lower(:subject)"


# Each part by its index; a message may name a sender that the webhook did not.
_EMAILS: dict[ScopeKind, TextClause] = {
    "sender": _statement(f"""
SELECT id FROM (
    (SELECT id FROM incoming_emails WHERE {sender_is("from_email")} AND {_NEXT.format(id="id")})
    UNION
    (SELECT email_id FROM messages WHERE {sender_is("from_address")} AND {_NEXT.format(id="email_id")})
) AS theirs ORDER BY id LIMIT :limit
"""),  # noqa: S608 words of ours
    "ticket": _statement(f"""
SELECT id FROM incoming_emails WHERE zendesk_ticket_id = :subject AND {_NEXT.format(id="id")}
"""),  # noqa: S608 words of ours
    "email": _statement(f"""
SELECT id FROM incoming_emails WHERE id = coalesce(
    (SELECT email_id FROM merged_emails WHERE id = CAST(:subject AS bigint)), CAST(:subject AS bigint)
) AND {_NEXT.format(id="id")}
"""),  # noqa: S608 words of ours
    # The index has only e-mails that Zendesk changed.
    "zendesk": _statement(f"""
SELECT id FROM incoming_emails
WHERE zendesk_state IS NOT NULL AND :subject = '{DELETED_IN_ZENDESK.subject}' AND (
    zendesk_state = 'permanently_deleted'
    OR zendesk_state = 'deleted' AND zendesk_state_at < now() - interval '{RESTORABLE_DAYS} days'
) AND {_NEXT.format(id="id")}
"""),  # noqa: S608 words of ours
    "file": _statement(f"""
SELECT id FROM (
    (SELECT email_id AS id FROM attachments WHERE sha256 = :subject AND {_NEXT.format(id="email_id")})
    UNION
    (SELECT email_id FROM messages WHERE original_sha256 = :subject AND {_NEXT.format(id="email_id")})
) AS theirs ORDER BY id LIMIT :limit
"""),  # noqa: S608 words of ours
}
_IDS = bindparam("email_ids", type_=ARRAY(BigInteger))
_COPIES = text("""
SELECT other.id FROM incoming_emails AS email
JOIN incoming_emails AS other ON other.zendesk_ticket_id = email.zendesk_ticket_id
    AND other.comment_id = email.comment_id
    AND (coalesce(other.account_id, '') IN ('', email.account_id) OR coalesce(email.account_id, '') = '')
WHERE email.id = ANY (:email_ids) AND email.comment_id <> '' AND other.id <> email.id
""").bindparams(_IDS)
_COMMENTS = text("""
SELECT DISTINCT comment_id FROM incoming_emails WHERE id = ANY (:email_ids) AND comment_id <> ''
""").bindparams(_IDS)
