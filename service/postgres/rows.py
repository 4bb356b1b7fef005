"""Parts of statements: rows from arrays or from a JSON list, and brief columns for lists."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ColumnElement,
    TableValuedAlias,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TypeEngine

from service.postgres.email_tables import Attachment

# The most that a list shows of a text or of a JSON value. Senders choose their length: 40 subjects of 1 MB
# would make a page of 160 MB.
BRIEF_TEXT = 300  # characters
BRIEF_JSON = 10_000  # characters as text

T = TypeVar("T")

ANNOUNCED = ("position", "source_url", "file_name", "declared_type", "declared_size")


def announced_files(files: ColumnElement[Any]) -> TableValuedAlias:
    """Make rows of the columns ANNOUNCED and of the e-mail's key from a JSON list of files."""
    key = Column("idempotency_key", Text)
    columns = (key, *(Column(name, Attachment.__table__.c[name].type) for name in ANNOUNCED))
    as_rows = func.json_to_recordset(files).table_valued(*columns, name="file")
    return as_rows.render_derived(with_types=True)


def rows_of(name: str, columns: Mapping[str, TypeEngine[Any]]) -> TableValuedAlias:
    """Make a table of rows from one array for each column, with their `place`; see `arrays_of`.

    The first array is a subquery, so that the planner does not see its length. Otherwise the generic plan, for a guessed
    ten rows, may look dearer than the plan for one row. Then Postgres plans the statement again for each batch, which takes
    10 to 20 % of its time for a webhook.
    """
    first, *others = (bindparam(f"every_{column}", type_=ARRAY(kind)) for column, kind in columns.items())
    arrays = (select(first).scalar_subquery(), *others)
    columns_of = (Column(column, kind) for column, kind in columns.items())
    return func.unnest(*arrays).table_valued(*columns_of, with_ordinality="place").render_derived(name=name)


def is_among(column: ColumnElement[int], parameter: str) -> ColumnElement[bool]:
    """Match the numbers of an array, the parameter of this name; Postgres does not see its length, as in `rows_of`."""
    hidden = select(bindparam(parameter, type_=ARRAY(BigInteger))).scalar_subquery()
    return column == func.any(
        cast(hidden, ARRAY(BigInteger))
    )  # without the cast, ANY would take it for a subquery


def arrays_of(columns: Iterable[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    """Return the parameters of a statement that uses `rows_of`."""
    return {f"every_{column}": [row[number] for row in rows] for number, column in enumerate(columns)}


def in_batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the items, so many at a time; Python 3.11 has no `itertools.batched`."""
    return (items[start : start + size] for start in range(0, len(items), size))


def brief(columns: Iterable[ColumnElement[Any]], most: int = BRIEF_TEXT) -> list[ColumnElement[Any]]:
    """Cut the texts among these columns to `most` characters, in Postgres; a long JSON value becomes null."""
    return [_brief(column, most) for column in columns]


def is_short(column: ColumnElement[Any]) -> ColumnElement[bool]:
    """Say whether a list can show a JSON value; its size on disk is known without reading it."""
    most: ColumnElement[int] = literal_column(str(BRIEF_JSON))
    return and_(func.pg_column_size(column) <= most, func.length(column.cast(Text)) <= most)


def _brief(column: ColumnElement[Any], most: int) -> ColumnElement[Any]:
    # Numbers are part of the statement: as parameters, they would make Postgres plan each list again.
    if isinstance(column.type, JSON):
        return case((is_short(column), column)).cast(JSON).label(column.name)
    if isinstance(column.type, Text):
        return func.left(column, literal_column(str(most)), type_=Text).label(column.name)
    return column
