"""Statements over any number of rows, made once: rows come as arrays, or as a list in JSON."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, TableValuedAlias, Text, bindparam, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TypeEngine

from service.models import Attachment

ANNOUNCED = ("position", "source_url", "file_name", "declared_type", "declared_size")


def announced_files(files: ColumnElement[Any]) -> TableValuedAlias:
    """Make rows of the columns ANNOUNCED, and of their e-mail's key, out of a JSON list of any number of files."""
    key = Column("idempotency_key", Text)
    columns = (key, *(Column(name, Attachment.__table__.c[name].type) for name in ANNOUNCED))
    as_rows = func.json_to_recordset(files).table_valued(*columns, name="file")
    return as_rows.render_derived(with_types=True)


def rows_of(name: str, columns: Mapping[str, TypeEngine[Any]]) -> TableValuedAlias:
    """Make a table of any number of rows, one array for each column, and their `place`; see `arrays_of`."""
    arrays = (bindparam(f"every_{column}", type_=ARRAY(kind)) for column, kind in columns.items())
    columns_of = (Column(column, kind) for column, kind in columns.items())
    return func.unnest(*arrays).table_valued(*columns_of, with_ordinality="place", name=name).render_derived()


def arrays_of(columns: Iterable[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    """Give the parameters of a statement that was made with `rows_of`."""
    return {f"every_{column}": [row[number] for row in rows] for number, column in enumerate(columns)}
