"""Empty the database before a test."""

from contextlib import suppress

import asyncpg


class Eraser:
    """Delete the rows for all tests of a session by one connection: a new one takes 7 ms to learn about all tables."""

    def __init__(self, url: str, statement: str) -> None:
        self._url, self._statement = url, statement
        self._connection: asyncpg.Connection | None = None

    async def erase(self) -> None:
        """Delete all rows; connect again where a test ended the connection."""
        if self._connection:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await self._connection.execute(self._statement)
                return
            self._connection.terminate()
        self._connection = await asyncpg.connect(self._url)
        await self._connection.execute(self._statement)

    async def close(self) -> None:
        if self._connection:
            await self._connection.close()
