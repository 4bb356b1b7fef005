"""Any order of events: nothing held is deleted, nothing erased returns, no shared object is lost, none is left, all is logged."""

from collections import Counter

import asyncpg
import pytest

from service.config.settings import Settings
from service.evidence import sequence
from service.evidence.work import make_head
from service.resources import Resources
from service.storage import objects
from service.storage.interface import ALL
from tests.conftest import EMPTY
from tests.support.custody_machine import Machine
from tests.support.evidence import finish_later, verified
from tests.support.examples import examples

STEPS = 60
SEEDS = 1


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"retention_floor_days": 0, "purge_per_second": 100_000})


@pytest.mark.timeout(0)
async def test_any_order_of_events_keeps_what_is_held_and_leaves_nothing_of_what_was_erased(
    res: Resources, database: asyncpg.Connection
) -> None:
    done: Counter[str] = Counter()
    await objects.check(res.storage)
    for seed in range(examples(SEEDS)):
        await database.execute(EMPTY)
        await database.execute("DROP TABLE IF EXISTS backup")
        for each in [each async for each in objects.listing(res.storage, ALL)]:
            await objects.remove(res.storage, each.key)
        await sequence.begin(res)
        await finish_later(res)
        machine = Machine(res, database, seed)
        try:
            for number in range(STEPS):
                done[await machine.step()] += 1
                if number % 20 == 19:
                    await machine.drain()
            if not machine.was_restored:
                await make_head(res)
                found = (await verified(res)).findings
                # The storage has the heads of earlier seeds, too.
                assert [each for each in found if each["code"] != "other_log"] == []
        except BaseException as exc:
            exc.add_note(f"seed {seed}, after {done}")
            raise
    assert done.total() == STEPS * examples(SEEDS)
