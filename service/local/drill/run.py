"""Run a drill: traffic and faults at the same time, then a pause to recover, then the audit."""

import asyncio
import itertools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import asyncpg
from rich.console import Console

from service.local.drill.audit import audit
from service.local.drill.faults import FAULTS, inject
from service.local.drill.ground import Ground, find_faketime, open_ground
from service.local.drill.ledger import Injury, Ledger
from service.local.drill.progress import Progress, open_progress
from service.local.drill.traffic import Traffic
from service.local.drill.verdict import Verdict, verdict
from service.local.launch import alone
from service.local.signals import interruptible, run_until_told
from service.local.stack import wait_until_ready
from service.local.up import one_line_errors
from service.local.zendesk import Zendesk

# An e-mail that kills, or hangs, every worker that takes it; and a process whose clock is wrong.
POISON = {"poison.kill": "kill", "poison.hang": "hang"}
SKEW = "clock.skew"
ALL = (*FAULTS, *POISON, SKEW)
_DRAIN_SECONDS = 240
_UNFINISHED = "SELECT count(*) FROM incoming_emails WHERE processing_status NOT IN ('completed', 'failed')"


@dataclass(frozen=True)
class Plan:
    """What to do; the same seed gives the same webhooks and the same order of faults."""

    seconds: float
    rate: float  # webhooks a second
    seed: int
    faults: Sequence[str]


def choose(words: str) -> tuple[str, ...]:
    """Return the faults that words such as `all`, `redis` or `redis.away,web.kill` name; raises ValueError."""
    chosen: dict[str, None] = {}
    for word in filter(None, (part.strip() for part in words.split(","))):
        found = [name for name in ALL if word in {"all", name, name.partition(".")[0]}]
        if not found and word != "none":
            raise ValueError(f"{word} is no fault; there are: all, none, {', '.join(ALL)}")
        chosen.update(dict.fromkeys(found))
    return tuple(chosen)


def run(plan: Plan, directory: Path | None) -> None:
    """Run it and tell the verdict; exits with 1 where an invariant broke, with 2 where it cannot start."""
    console = Console(highlight=False)
    outcome: list[Verdict] = []
    with one_line_errors(), tempfile.TemporaryDirectory(prefix="holdfast-drill-") as temporary:
        place = (directory or Path(temporary)).resolve()
        with interruptible(), alone(place):
            run_until_told(lambda hurry: _run(plan, place, console, hurry, outcome))
    if not outcome:
        console.print("The drill was broken off: no verdict.")
        sys.exit(1)
    console.print(outcome[0].text, soft_wrap=True)
    sys.exit(0 if outcome[0].good else 1)


async def _run(
    plan: Plan, directory: Path, console: Console, hurry: asyncio.Event, outcome: list[Verdict]
) -> None:
    ledger, chance = Ledger(), Random(plan.seed)  # noqa: S311 the same drill again
    skew = SKEW in plan.faults
    if skew and not find_faketime():
        console.print("clock.skew is left out: libfaketime is not installed (Debian's package faketime)")
    with (directory / "drill.log").open("w") as log:

        def say(who: str, what: str) -> None:
            log.write(f"{time.time():.3f} {who}: {what}\n")

        async with (
            Zendesk() as zendesk,
            open_ground(directory, zendesk, say, hurry, skew=skew) as ground,
        ):
            with open_progress(console, plan.seconds, plan.rate, ledger) as progress:
                drill = _Drill(plan, ground, Traffic(zendesk, ground.webs, ledger, chance), ledger, progress)
                await drill.hurt()
                progress.note("the faults are over; what is unfinished gets its time")
                drained = await drill.drain()
            if zendesk.desk.cdn_authorizations:
                ledger.unexpected.append("credentials were sent to the CDN")
            findings = await audit(ledger, ground.database_url, ground.objects)
    about = f"{plan.seconds:g} s, {plan.rate:g} webhooks/s, seed {plan.seed}"
    outcome.append(verdict(about, ledger, findings, drained))


@dataclass(frozen=True)
class _Drill:
    plan: Plan
    ground: Ground
    traffic: Traffic
    ledger: Ledger
    progress: Progress

    async def hurt(self) -> None:
        """Send and injure at the same time; each part is hurt by one fault at a time."""
        parts: dict[str, list[str]] = defaultdict(list)
        for fault in self.plan.faults:
            if fault in FAULTS:
                parts[fault.partition(".")[0]].append(fault)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.traffic.run(self.plan.rate, self.plan.seconds, self.progress.sent))
            for part, faults in parts.items():
                chance = Random(f"{self.plan.seed} {part}")  # noqa: S311 the same drill again
                group.create_task(self._injure(faults, chance))
            for fault in POISON.keys() & set(self.plan.faults):
                group.create_task(self._poison(fault))

    async def drain(self) -> float:
        """Wait until nothing is unfinished; return how long that took, in seconds."""
        began = time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while left := await _unfinished(self.ground.database_url):
                    self.progress.left(left)
                    await asyncio.sleep(0.5)
        for web in self.ground.webs:
            await wait_until_ready(web)
        return time.monotonic() - began

    async def _injure(self, faults: Sequence[str], chance: Random) -> None:
        """Inject these one after the other, in any order, each at least once, until the time is over."""
        deadline = time.monotonic() + self.plan.seconds
        pause = min(40, max(1.5, 0.8 * self.plan.seconds / len(faults)))
        for turn in itertools.count():
            for fault in chance.sample(faults, len(faults)):
                await asyncio.sleep(chance.uniform(0.3, pause))
                if turn and time.monotonic() > deadline:
                    return
                injury = Injury(fault, time.time())
                self.ledger.injuries.append(injury)
                with self.progress.during(fault):
                    await inject(fault, self.ground, chance)
                injury.ended = time.time()
            if time.monotonic() > deadline:
                return

    async def _poison(self, fault: str) -> None:
        await asyncio.sleep(1)
        self.ledger.injuries.append(Injury(fault, time.time()))
        directory, how = self.ground.fault_points, POISON[fault]
        await self.traffic.send_one(
            fault, lambda webhook: (directory / f"after_claim@{webhook.ticket_id}").write_text(how)
        )


async def _unfinished(database_url: str) -> int:
    try:
        connection = await asyncpg.connect(database_url, timeout=5)
        try:
            return int(await connection.fetchval(_UNFINISHED))
        finally:
            await connection.close()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return 1  # Postgres itself is not there yet
