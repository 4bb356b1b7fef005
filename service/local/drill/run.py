"""Run a drill: traffic and faults at the same time, then a pause to recover, then the audit."""

import asyncio
import logging
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

from service.local.directory import own_directory
from service.local.drill.audit import audit
from service.local.drill.carried import audit_sync
from service.local.drill.faults import FAULTS, inject
from service.local.drill.ground import LOG, Ground, Stubborn, check_place, find_faketime, open_ground
from service.local.drill.ledger import Injury, Ledger
from service.local.drill.plan import POISON, REFUSAL, SKEW, DrillPlan, turns
from service.local.drill.progress import DrillProgress, open_progress
from service.local.drill.receiving import has_collection
from service.local.drill.traffic import Traffic
from service.local.drill.verdict import Verdict, verdict
from service.local.launch import ServerError, alone
from service.local.signals import interruptible, run_until_told
from service.local.stack import wait_until_ready
from service.local.up import one_line_errors
from service.local.zendesk.stand_in import Zendesk

_TRIES, _TRY_SECONDS = 6, 2  # to do a harm for which there has to be an occasion
_DRAIN_SECONDS = 240
# An access token lives shorter than any at Zendesk, so that each process renews some.
TOKEN_SECONDS = 10
_LOG_FORMAT = "%(created).3f %(name)s: %(message)s"
_UNFINISHED = (
    "SELECT count(*) FROM incoming_emails"
    " WHERE processing_status NOT IN ('completed', 'failed') OR sync_status = 'pending'"
)


def run(plan: DrillPlan, directory: Path | None) -> None:
    """Run it and tell the verdict; exits with 1 where an invariant broke, with 2 where it cannot start."""
    console = Console(highlight=False)
    outcome: list[Verdict] = []
    with one_line_errors(), tempfile.TemporaryDirectory(prefix="holdfast-drill-") as temporary:
        place = own_directory(directory or Path(temporary))
        check_place(place)
        with interruptible(), alone(place):
            # Also what the libraries have to say, of connections that break for example.
            logging.basicConfig(filename=place / LOG, filemode="w", level=logging.INFO, format=_LOG_FORMAT)
            run_until_told(lambda hurry: _run(plan, place, console, hurry, outcome))
    if not outcome:
        console.print("The drill was broken off: no verdict.")
        sys.exit(1)
    console.print(outcome[0].text, soft_wrap=True)
    if not outcome[0].good and not directory:
        console.print(f"  To keep what is left, repeat it with --seed {plan.seed} --data-dir DIRECTORY.")
    sys.exit(0 if outcome[0].good else 1)


async def _run(
    plan: DrillPlan, directory: Path, console: Console, hurry: asyncio.Event, outcome: list[Verdict]
) -> None:
    ledger = Ledger()
    skew = SKEW in plan.faults and find_faketime() is not None
    if skew:  # from the first moment to the last
        ledger.injuries.append(Injury(SKEW, time.time()))
    with open_progress(console, plan.webhooks, ledger) as progress:
        progress.note("starting Postgres, Valkey, the sync's targets, 2 web and 3 worker processes")
        if not has_collection():
            progress.note("the collection is left out: there is no server of MongoDB's protocol (secantusdb)")
        if SKEW in plan.faults and not skew:
            progress.note("clock.skew is left out: libfaketime is not installed (Debian's package faketime)")
        async with (
            Zendesk() as zendesk,
            open_ground(directory, zendesk, _say, hurry, skew=skew) as ground,
        ):
            zendesk.state.token_seconds = TOKEN_SECONDS
            traffic = Traffic(zendesk, ground.webs, ledger, plan.seed)
            try:
                drained = await _Drill(plan, ground, traffic, ledger, progress).run()
            except asyncio.CancelledError:
                progress.note("ending every process; Ctrl-C once more kills them")
                raise
            if zendesk.state.cdn_authorizations:
                ledger.unexpected.append("credentials were sent to the CDN")
            findings = await audit(ledger, ground.database_url, ground.objects)
            await audit_sync(findings, ledger, ground.database_url, ground.kept)
    about = f"{plan.seconds:g} s, {plan.rate:g} webhooks/s, seed {plan.seed}"
    width = console.width if console.is_terminal else 1000
    outcome.append(verdict(about, ledger, findings, drained, width))


@dataclass(frozen=True)
class _Drill:
    plan: DrillPlan
    ground: Ground
    traffic: Traffic
    ledger: Ledger
    progress: DrillProgress

    async def run(self) -> float:
        """Send and injure at the same time, then drain; return how long that took, in seconds."""
        await self._hurt()
        self.progress.note("the faults are over; what is unfinished gets its time")
        began = time.monotonic()
        await self._drain()
        self.progress.note("looking at every row, attempt and byte")
        return time.monotonic() - began

    async def _hurt(self) -> None:
        """Each part is hurt by one fault at a time."""
        parts: dict[str, list[str]] = defaultdict(list)
        for fault in self.plan.faults:
            if fault in FAULTS:
                parts[fault.partition(".")[0]].append(fault)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.traffic.run(self.plan.webhooks, self.plan.rate, self.progress.sent))
            for part, faults in parts.items():
                group.create_task(self._injure(part, faults))
            for fault in POISON.keys() & set(self.plan.faults):
                group.create_task(self._poison(fault))
            if REFUSAL in self.plan.faults:
                group.create_task(self._refuse())

    async def _drain(self) -> None:
        for web in self.ground.webs:
            try:
                await wait_until_ready(web)
            except ServerError as exc:
                self.ledger.unexpected.append(f"{web}: {exc}")
        with suppress(TimeoutError):  # the audit will name what is not finished
            async with asyncio.timeout(_DRAIN_SECONDS):
                while left := await _unfinished(self.ground.database_url):
                    self.progress.left(left)
                    await asyncio.sleep(0.5)

    async def _injure(self, part: str, faults: Sequence[str]) -> None:
        """Inject these one after the other, in any order, each at least once, until the time is over."""
        deadline = time.monotonic() + self.plan.seconds
        for turn, pause, fault in turns(self.plan, part, faults):
            if turn and time.monotonic() + pause > deadline:
                return
            await asyncio.sleep(pause)
            for attempt in range(_TRIES):
                chance = Random(f"{self.plan.seed} {fault} {turn} {attempt}")  # noqa: S311 the same drill again
                if await self._inject(fault, chance):
                    break
                await asyncio.sleep(_TRY_SECONDS)

    async def _inject(self, fault: str, chance: Random) -> bool:
        injury = Injury(fault, time.time())
        self.ledger.injuries.append(injury)
        _say("drill", f"{fault} begins")
        with self.progress.during(fault):
            try:
                injury.hurt = await inject(fault, self.ground, chance)
            except Stubborn as exc:
                self.ledger.unexpected.append(str(exc))
        injury.ended = time.time()
        _say("drill", f"{fault} {'is over' if injury.hurt else 'found no target'}")
        return injury.hurt

    async def _poison(self, fault: str) -> None:
        injury = await self._one(fault)
        directory, how = self.ground.fault_points, POISON[fault]
        injury.hurt = await self.traffic.send_poison(
            fault, lambda ticket: (directory / f"after_claim@{ticket}").write_text(how)
        )

    async def _refuse(self) -> None:
        injury = await self._one(REFUSAL)
        injury.hurt = await self.traffic.send_unwanted(REFUSAL)

    async def _one(self, fault: str) -> Injury:
        """Begin with a fault that is one e-mail."""
        await asyncio.sleep(1)
        injury = Injury(fault, time.time())
        self.ledger.injuries.append(injury)
        _say("drill", f"{fault} begins")
        return injury


def _say(who: str, what: str) -> None:
    logging.getLogger(who).info("%s", what)


async def _unfinished(database_url: str) -> int:
    try:
        connection = await asyncpg.connect(database_url, timeout=5)
        try:
            return int(await connection.fetchval(_UNFINISHED))
        finally:
            await connection.close()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return 1  # Postgres itself is not there yet
