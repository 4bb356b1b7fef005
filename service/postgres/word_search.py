"""Search the index of words, newest e-mails first, block by block, in bounded steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    and_,
    bindparam,
    column,
    except_,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.expression import FromClause

from service.postgres.email_tables import Attachment, IncomingEmail
from service.postgres.message_tables import EmailWords
from service.postgres.words import (
    Term,
    asked_in_sql,
    block_of,
    first_id,
    prefix_in_sql,
    prefix_of_block_in_sql,
    terms_of,
)

# The newest e-mails are searched without the index, too: their words are written at the end of their first attempt.
UNWRITTEN = 2_000
# Matches of a term are counted up to this number, in the newest blocks: rare terms lead the search.
_SAMPLED = 1_000
_SAMPLED_BLOCKS = 2
# To look up a term in a block, Postgres reads all entries that begin with it. To check a term in a row costs as much as
# this many entries.
_CHECK = 50
# A query may have more terms; the longest of them lead, and all are checked.
_MOST_LEADING = 6
# The work of one step: blocks, and entries in them.
_MOST_BLOCKS = 2_000
_LEAST_BLOCKS = 8
_MOST_ENTRIES = 200_000


@dataclass(frozen=True, slots=True)
class Found:
    """The ids of matches, newest first; if there may be older ones, these have ids below `reached`."""

    email_ids: Sequence[int]
    reached: int | None


async def find(conn: AsyncConnection, query: str, below: int | None, most: int) -> Found:
    """Find at most `most` e-mails that match a query, with ids below `below`."""
    if not (terms := terms_of(query)):
        return Found((), None)
    found = await _find_written(conn, terms, below, most)
    since = 0 if found.reached is None else found.reached
    others = [n for n in await _find_unwritten(conn, query, below) if n >= since]
    merged = sorted({*found.email_ids, *others}, reverse=True)
    if len(merged) > most:
        return Found(merged[:most], merged[most - 1])
    return Found(merged, found.reached)


def holds(query: str, email: FromClause) -> ColumnElement[bool]:
    """Match a query in a row of an e-mail; without an index, so only for few rows."""
    if not (terms := terms_of(query)):
        return literal_column("false")
    written = EmailWords.words.op("@@")(asked_in_sql(terms, prefix_in_sql(EmailWords.__table__.c.email_id)))
    # A scalar subquery: for an EXISTS, Postgres may choose to list all e-mails with the words.
    has_words = select(written).where(EmailWords.email_id == email.c.id).scalar_subquery()
    return func.coalesce(has_words, _is_written_in(query, email))


async def _find_written(conn: AsyncConnection, terms: Sequence[Term], below: int | None, most: int) -> Found:
    newest = (await conn.execute(select(func.max(EmailWords.email_id)))).scalar_one()
    if newest is None:
        return Found((), None)
    below = newest + 1 if below is None else min(below, newest + 1)
    top = block_of(below - 1)
    is_simple = len(terms) == 1 and not terms[0].joined
    # The limit bounds the work for a single word: all that is read matches.
    leading, entries = (terms, 0) if is_simple else await _choose(conn, terms, top)
    blocks = min(_MOST_BLOCKS, max(_LEAST_BLOCKS, _MOST_ENTRIES // (entries + 1)))
    bottom = max(0, top - blocks + 1)
    rest = [term for term in terms if term not in leading]
    rows = await conn.execute(_in_blocks(leading, rest, most), {"top": top, "bottom": bottom, "below": below})
    email_ids = [row.email_id for row in rows]
    if len(email_ids) == most:
        return Found(email_ids, email_ids[-1])
    return Found(email_ids, first_id(bottom) if bottom else None)


async def _choose(conn: AsyncConnection, terms: Sequence[Term], top: int) -> tuple[Sequence[Term], int]:
    """Choose the terms to look up; the others are only checked. Return them, and their entries in a block."""
    candidates = sorted(terms, key=lambda term: -max(map(len, term.words)))[:_MOST_LEADING]
    numbers = [block for block in range(top, top - _SAMPLED_BLOCKS, -1) if block >= 0]
    counts = (
        _count_in(term, block).label(f"{place}_{block}")
        for place, term in enumerate(candidates)
        for block in numbers
    )
    row = (await conn.execute(select(*counts))).one()
    entries = [sum(row[place * len(numbers) :][: len(numbers)]) for place in range(len(candidates))]
    limit = _CHECK * (min(entries) + 1)
    chosen = [place for place in range(len(candidates)) if entries[place] <= limit]
    return [candidates[place] for place in chosen], sum(entries[place] for place in chosen) // len(numbers)


def _count_in(term: Term, block: int) -> ColumnElement[int]:
    asked = asked_in_sql([term], prefix_of_block_in_sql(literal(block, BigInteger)))
    some = select(literal(1)).where(EmailWords.words.op("@@")(asked)).limit(literal_column(str(_SAMPLED)))
    return select(func.count()).select_from(some.subquery()).scalar_subquery()


def _in_blocks(leading: Sequence[Term], rest: Sequence[Term], most: int) -> Select[tuple[int]]:
    """Search block by block; Postgres stops at the limit, and reads nothing of the blocks after it."""
    numbers = func.generate_series(_parameter("top"), _parameter("bottom"), literal_column("-1"))
    block = numbers.table_valued(column("number", BigInteger), name="block").render_derived()
    prefix = prefix_of_block_in_sql(block.c.number)
    here: list[ColumnElement[bool]] = [EmailWords.words.op("@@")(asked_in_sql(leading, prefix))]
    if rest:  # inside of a function, so that Postgres does not look these up, too
        others = EmailWords.words.op("@@")(asked_in_sql(rest, prefix))
        here.append(func.coalesce(others, literal_column("false")))
    # As an addition: Postgres must not take the index of ids, which leads to all of them.
    number = EmailWords.email_id + literal_column("0")
    found = select(EmailWords.email_id).where(*here, number < _parameter("below"))
    inside = found.order_by(number.desc()).lateral("inside")
    return select(inside.c.email_id).select_from(block.join(inside, true())).limit(literal_column(str(most)))


async def _find_unwritten(conn: AsyncConnection, query: str, below: int | None) -> Sequence[int]:
    """Find matches among the newest e-mails whose words are not written yet."""
    newest = select(func.max(IncomingEmail.id)).scalar_subquery()
    since = newest - literal_column(str(UNWRITTEN))
    written = select(EmailWords.email_id).where(EmailWords.email_id > since)
    # Materialized: mostly there are few, and only these are read.
    numbers = except_(select(IncomingEmail.id).where(IncomingEmail.id > since), written)
    number = numbers.cte("unwritten").prefix_with("MATERIALIZED", dialect="postgresql")
    rows = select(IncomingEmail).join(number, number.c.id == IncomingEmail.id)
    if below is not None:
        rows = rows.where(IncomingEmail.id < below)
    email = rows.subquery("email")
    return (await conn.scalars(select(email.c.id).where(_is_written_in(query, email)))).all()


def _is_written_in(query: str, email: FromClause) -> ColumnElement[bool]:
    """Match the words of a query as they are written, in the columns of an e-mail and in the names of its files."""
    columns = (email.c.zendesk_ticket_id, email.c.subject, email.c.from_email, email.c.from_name)
    name = Attachment.file_name

    def is_named(part: str) -> ColumnElement[bool]:
        named = select(func.bool_or(name.icontains(part, autoescape=True)))
        return named.where(Attachment.email_id == email.c.id).scalar_subquery()

    parts = query.split()
    found = (
        or_(*(each.icontains(part, autoescape=True) for each in columns), is_named(part)) for part in parts
    )
    return func.coalesce(and_(true(), *found), literal_column("false"))


def _parameter(name: str) -> ColumnElement[int]:
    return bindparam(name, type_=BigInteger)
