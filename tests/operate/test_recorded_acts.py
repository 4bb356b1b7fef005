"""An acknowledgement or a saved filter changes in the transaction that records who changed it."""

from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from service.errors import HoldfastError
from service.operate.acknowledge import acknowledge, unacknowledge
from service.operate.saved_filters import remove_filter, save_filter
from service.postgres.selection import Selection
from service.resources import Resources

GROUP = ("http_500", "files.example")
UNSTORABLE = "ada\0"
REMOVALS: dict[str, Callable[[Resources], Awaitable[None]]] = {
    "acknowledgements": lambda res: unacknowledge(res, GROUP, UNSTORABLE),
    "saved_filters": lambda res: remove_filter(res, 1, UNSTORABLE),
}


@pytest.mark.parametrize("table", REMOVALS)
async def test_what_cannot_be_recorded_is_not_done(
    res: Resources, database: asyncpg.Connection, table: str
) -> None:
    await acknowledge(res, GROUP, "ada", "Asked Zendesk.")
    await save_filter(res, "Failed ones", Selection(status="failed"), "ada")

    with pytest.raises(HoldfastError):
        await REMOVALS[table](res)

    assert await database.fetchval(f"SELECT count(*) FROM {table}") == 1
    assert await database.fetchval("SELECT count(*) FROM operator_actions") == 2
