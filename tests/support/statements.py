"""Share SQLAlchemy's compiled statements among all engines of a test process: each test opens engines of its own."""

from typing import Any

from sqlalchemy import Engine
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

_compiled: dict[Any, Any] = {}


class Dialect(PGDialect_asyncpg):
    """SQLAlchemy's own dialect; all are equal, because a cache's keys contain the dialect."""

    supports_statement_cache = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dialect)

    def __hash__(self) -> int:
        return hash(Dialect)

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        engine.update_execution_options(compiled_cache=_compiled)


def share_compiled_statements() -> None:
    registry.register("postgresql.asyncpg", __name__, Dialect.__name__)
