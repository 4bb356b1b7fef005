"""Frequent statements: compiled once, and run by asyncpg without SQLAlchemy's execution.

The statement of one new e-mail takes 0.13 ms of processor time instead of 0.26, that of 32 takes 0.32 instead of 0.5.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import asyncpg
from sqlalchemy import JSON, Executable
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.ext.asyncio import AsyncConnection

from service.json_text import json_text
from service.postgres.engine import driver_of, is_about_values, is_in_transaction


class Prepared:
    """A statement that is its own transaction, safe to repeat, and that returns rows of plain values."""

    def __init__(self, statement: Executable) -> None:
        self._statement = statement

    async def fetch(self, conn: AsyncConnection, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """Run the statement; raises the errors of `conn.execute`.

        SQLAlchemy repeats a statement that failed: it knows what the error means for the connection and the pool.
        """
        driver = await driver_of(conn)
        if not driver.pooled and not is_in_transaction(conn):
            try:
                # asyncpg closes a statement that nothing refers to: no variable here, which a traceback would keep.
                return await (await driver.prepare_once(self._sql)).fetch(*self._arguments(parameters))  # type: ignore[no-any-return] # asyncpg has no types
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as exc:
                if not is_about_values(exc):
                    driver.forget(self._sql)
            except BaseException:  # cancelled: nobody knows what the session is doing
                await conn.invalidate()
                raise
        return (await conn.execute(self._statement, parameters)).all()

    @cached_property
    def _compiled(self) -> Any:  # noqa: ANN401 a compiler of SQLAlchemy
        compiled = self._statement.compile(dialect=dialect())  # type: ignore[attr-defined, no-untyped-call] # each statement has it
        if compiled.post_compile_params:
            raise TypeError("A prepared statement has no IN with a list of values.")
        return compiled

    @cached_property
    def _sql(self) -> str:
        return str(self._compiled)

    @cached_property
    def _fixed(self) -> Mapping[str, Any]:
        """The values that are part of the statement, by parameter."""
        return dict(self._compiled.params)

    @cached_property
    def _names(self) -> Sequence[tuple[str, bool]]:
        """The parameters in order, and which of them are JSON."""
        binds = self._compiled.binds
        return [(name, isinstance(binds[name].type, JSON)) for name in self._compiled.positiontup]

    def _arguments(self, parameters: Mapping[str, Any]) -> list[Any]:
        values = {**self._fixed, **parameters}
        return [json_text(values[name]) if is_json else values[name] for name, is_json in self._names]
