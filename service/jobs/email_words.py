"""The words by which e-mails are found, in Postgres: load the texts that have them, and save them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Integer,
    Text,
    case,
    cast,
    func,
    literal_column,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, TSVECTOR, insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from service.postgres.email_tables import Attachment, IncomingEmail
from service.postgres.message_tables import EmailWords, Message
from service.postgres.prepared import Prepared
from service.postgres.rows import arrays_of, is_among, rows_of

# Of each text, name or address. The sender chooses its length; the rest of it is not found.
MOST_CHARACTERS = 65_536
_MOST_FILES = 500
_MOST_PEOPLE = 1_000
# The words of a new e-mail are written at the end of its first attempt, mostly after less time than this.
_FIRST_ATTEMPT_SECONDS = 10

_COLUMNS: Mapping[str, TypeEngine[Any]] = {"email_id": BigInteger(), "words": Text()}
_OF_EMAIL = ("zendesk_ticket_id", "subject", "from_email", "from_name")
_OF_MESSAGE = ("subject", "from_address", "from_name")
_OF_ERROR = ("error_code", "processing_error", "sync_error_code", "sync_error")


@dataclass(frozen=True, slots=True)
class EmailTexts:
    """The texts of an e-mail, each cut, the longest last; without a message, also its webhook."""

    email_id: int
    texts: Sequence[str | None]
    headers: Sequence[tuple[str, str]] = ()
    body: bytes | None = None


async def load_texts(conn: AsyncConnection, email_ids: Sequence[int]) -> list[EmailTexts]:
    """Load the texts of e-mails in the order of their ids; leave out those that are gone."""
    rows = await _texts().fetch(conn, {"email_ids": email_ids})
    return [
        EmailTexts(
            email_id, [*brief, *_people_in(to), *_people_in(cc), *names, text], _read(headers) or (), body
        )
        for email_id, *brief, text, to, cc, names, headers, body in rows
    ]


async def save_words(conn: AsyncConnection, words: Mapping[int, Sequence[str]]) -> None:
    """Save the entries of e-mails; those of e-mails that are gone are dropped."""
    rows = [(email_id, " ".join(words[email_id])) for email_id in sorted(words)]
    await _save().fetch(conn, arrays_of(_COLUMNS, rows))


async def list_unwritten(
    conn: AsyncConnection, below: int | None, examined: int
) -> tuple[Sequence[int], int | None]:
    """Return the ids of e-mails without words among the next `examined` below an id, newest first.

    The second value is the id to go on below; None after the oldest e-mail.
    """
    email = select(IncomingEmail.id, IncomingEmail.received_at)
    if below is not None:
        email = email.where(IncomingEmail.id < below)
    some = email.order_by(IncomingEmail.id.desc()).limit(literal_column(str(examined))).subquery()
    words = select(EmailWords.email_id).where(EmailWords.email_id == some.c.id).scalar_subquery()
    delay = func.make_interval(0, 0, 0, 0, 0, 0, literal_column(str(_FIRST_ATTEMPT_SECONDS)))
    is_due = or_(some.c.received_at.is_(None), some.c.received_at < func.now() - delay)
    columns = some.c.id, (words.is_(None) & is_due).label("is_unwritten")
    rows = (await conn.execute(select(*columns).order_by(some.c.id.desc()))).all()
    return [row.id for row in rows if row.is_unwritten], rows[-1].id if len(rows) == examined else None


@cache
def _texts() -> Prepared:
    email, message = IncomingEmail.__table__.c, Message.__table__.c
    names = (
        select(func.left(Attachment.file_name, _number(MOST_CHARACTERS)))
        .where(Attachment.email_id == email.id, Attachment.file_name.is_not(None))
        .order_by(Attachment.position)
        .limit(_number(_MOST_FILES))
        .scalar_subquery()
    )
    # The longest last: of too many words, these are left out.
    texts = (
        *(email[name] for name in _OF_EMAIL),
        *(message[name] for name in _OF_MESSAGE),
        *(email[name] for name in _OF_ERROR),
        message.text,
    )
    has_none = message.email_id.is_(None)
    return Prepared(
        select(
            email.id,
            *(func.left(each, _number(MOST_CHARACTERS)) for each in texts),
            cast(message.to, Text),
            cast(message.cc, Text),
            func.array(names, type_=ARRAY(Text)),
            cast(case((has_none, email.raw_headers)), Text),
            case((has_none, email.raw_body)),
        )
        .select_from(IncomingEmail.__table__.outerjoin(Message.__table__, message.email_id == email.id))
        .where(is_among(email.id, "email_ids"))
        .order_by(email.id)
    )


def _people_in(text: str | None) -> Iterator[str | None]:
    for person in (_read(text) or ())[:_MOST_PEOPLE]:
        yield from (person["name"], person["address"])


def _read(text: str | None) -> Any:  # noqa: ANN401 what we wrote as JSON
    return json.loads(text) if text else None


@cache
def _save() -> Prepared:
    rows = rows_of("row", _COLUMNS)
    vector = func.array_to_tsvector(func.string_to_array(rows.c.words, literal_column("' '")), type_=TSVECTOR)
    email = IncomingEmail.__table__
    # An e-mail that became another one meanwhile is gone; its lock keeps it from going before the words are written.
    new = (
        select(rows.c.email_id, vector)
        .select_from(rows.join(email, email.c.id == rows.c.email_id))
        .order_by(rows.c.email_id)
        .with_for_update(read=True, key_share=True, of=email)
    )
    write = insert(EmailWords).from_select(["email_id", "words"], new)
    changed = EmailWords.words.op("<>")(write.excluded.words)
    return Prepared(
        write.on_conflict_do_update(
            index_elements=["email_id"], set_={"words": write.excluded.words}, where=changed
        ).returning(EmailWords.email_id)
    )


def _number(value: int) -> Any:  # noqa: ANN401
    return literal_column(str(value), Integer)
