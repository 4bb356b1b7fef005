"""Work on e-mails since a time that is still to come is refused, wherever it is asked for."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from service.backfill import requests
from service.backfill.record import History
from service.errors import Rejected
from service.reconcile import verify
from service.reconcile.run import RunOptions, reconcile
from service.resources import Resources
from tests.conftest import Server
from tests.support.commands import typed
from tests.support.pages import asking as asking_page

WORK: dict[str, Callable[[Resources, datetime], Awaitable[int]]] = {
    "backfill": lambda res, since: requests.begin(res, History(since, None, dry_run=False), "ada"),
    "reconcile": lambda res, since: reconcile(res, RunOptions("ada", since), lambda _share, _seen: None),
    "verify": lambda res, since: verify.begin(res, actor="ada", rate=1, since=since, fix=False),
}
COMMANDS = [("backfill",), ("reconcile",), ("storage", "verify")]


@pytest.mark.parametrize("begin", WORK.values(), ids=WORK.keys())
async def test_a_time_to_come_is_refused_and_one_that_was_is_not(
    begin: Callable[[Resources, datetime], Awaitable[int]], res: Resources
) -> None:
    now = datetime.now(UTC)
    with pytest.raises(Rejected) as caught:
        await begin(res, now + timedelta(hours=1))

    assert (caught.value.status, caught.value.code) == (400, "since_in_future")
    assert await begin(res, now) > 0


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
async def test_commands_refuse_it(words: tuple[str, ...], res: Resources) -> None:
    done = await typed(res.settings, *words, "--since", "9998-01-01T00:00+00:00")

    assert done.returncode == 1
    assert done.stderr == "9998-01-01 00:00 UTC is in the future: give an earlier time.\n"


async def test_the_page_refuses_it(client: Server, database: asyncpg.Connection) -> None:
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    async with asking_page(client, "/complete/search", form={"day": str(tomorrow)}) as response:
        page = await response.text()

    assert response.status == 400
    assert "is in the future" in page
    assert await database.fetchval("SELECT count(*) FROM backfills WHERE actor <> ''") == 0
