"""Run a drill: traffic and faults at the same time, then time to drain, then the audits."""

import asyncio
import logging
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import asyncpg
from rich.console import Console

from service.local.directory import own_directory
from service.local.drill.audit import audit
from service.local.drill.connection import CHANGES, Connection
from service.local.drill.custody import CUSTODY, Custody, verify_evidence
from service.local.drill.faults import FAULTS, inject
from service.local.drill.installation import (
    LOG,
    POSTGRES_AWAY,
    Installation,
    Stuck,
    check_directory,
    find_faketime,
    has_collection,
    open_installation,
)
from service.local.drill.ledger import Injection, Ledger
from service.local.drill.message_audit import check_calls
from service.local.drill.plan import POISON, REFUSAL, SKEW, WITHHELD, DrillPlan, turns
from service.local.drill.progress import DrillProgress, open_progress
from service.local.drill.source import HIDDEN_SECONDS, Suspensions, change_in_zendesk, search
from service.local.drill.sync_audit import audit_sync
from service.local.drill.traffic import Traffic
from service.local.drill.verdict import Verdict, verdict
from service.local.launch import ServerError, alone
from service.local.signals import interruptible, run_until_told
from service.local.stack import wait_until_ready
from service.local.up import one_line_errors
from service.local.zendesk.stand_in import Zendesk
from service.postgres.removal_tables import TARGET_DUE, TO_REMOVE

_ATTEMPTS, _PAUSE_SECONDS = 6, 2  # to inject a fault that had no effect
_DRAIN_SECONDS = 240
# Shorter than any token's life at Zendesk, so that each process renews some.
_TOKEN_SECONDS = 10
_LOG_FORMAT = "%(created).3f %(name)s: %(message)s"
# The subject of a message may come after its e-mail was completed. Every e-mail of a drill has one.
_UNFINISHED = f"""
SELECT (SELECT count(*) FROM incoming_emails
    WHERE processing_status NOT IN ('completed', 'failed') OR sync_status = 'pending')
    + (SELECT count(*) FROM messages WHERE subject IS NULL)
    + (SELECT count(*) FROM erasures WHERE status = 'running')
    + (SELECT count(*) FROM loose_objects WHERE email_id IS NOT NULL OR due_at <= now())
    + (SELECT count(*) FROM objects_to_remove WHERE {TO_REMOVE})
    + (SELECT count(*) FROM removed_emails WHERE {TARGET_DUE})
"""  # noqa: S608 constants of ours


def run(plan: DrillPlan, data_dir: Path | None) -> None:
    """Run a drill and print the verdict; exit with 1 if an invariant broke, with 2 if it cannot start."""
    console = Console(highlight=False)
    outcome: list[Verdict] = []
    with one_line_errors(), tempfile.TemporaryDirectory(prefix="holdfast-drill-") as temporary:
        directory = own_directory(data_dir or Path(temporary))
        check_directory(directory)
        with interruptible(), alone(directory):
            # Libraries log here, too, of broken connections for example.
            logging.basicConfig(
                filename=directory / LOG, filemode="w", level=logging.INFO, format=_LOG_FORMAT
            )
            run_until_told(lambda hurry: _run(plan, directory, console, hurry, outcome))
    if not outcome:
        console.print("The drill was interrupted: no verdict.")
        sys.exit(1)
    console.print(outcome[0].text, soft_wrap=True)
    if not outcome[0].good and not data_dir:
        console.print(f"  To keep the evidence, repeat it with --seed {plan.seed} --data-dir DIRECTORY.")
    sys.exit(0 if outcome[0].good else 1)


async def _run(
    plan: DrillPlan, directory: Path, console: Console, hurry: asyncio.Event, outcome: list[Verdict]
) -> None:
    ledger = Ledger()
    skew = SKEW in plan.faults and find_faketime() is not None
    if skew:  # for the whole drill
        ledger.injections.append(Injection(SKEW, time.time()))
    with open_progress(console, plan.webhooks, ledger) as progress:
        _note_start(plan, progress)
        async with (
            _stand_in(plan) as (zendesk, suspensions),
            open_installation(directory, zendesk, _log, hurry, skew=skew) as installation,
        ):
            zendesk.state.token_seconds = _TOKEN_SECONDS
            # Without faults, the calls are counted as for an account that gives none.
            zendesk.state.gives_originals = bool(plan.faults)
            withholds = WITHHELD in plan.faults
            traffic = Traffic(zendesk, installation.webs, ledger, plan.seed, withholds)
            connection = Connection(installation, ledger, plan.seed) if {*plan.faults} & {*CHANGES} else None
            custody = Custody(installation, ledger, plan.seed)
            drill = _Drill(plan, installation, traffic, ledger, progress, suspensions, connection, custody)
            try:
                drained = await drill.run()
            except asyncio.CancelledError:
                progress.note("ending every process; Ctrl-C again kills them")
                raise
            if zendesk.state.cdn_authorizations:
                ledger.unexpected.append("credentials were sent to the CDN")
            database_url = installation.database_url
            result = await audit(
                ledger,
                database_url,
                installation.objects,
                suspensions=suspensions,
                connection=connection,
                custody=custody,
            )
            check_calls(result, ledger, zendesk.state)
            await audit_sync(result, ledger, database_url, installation.collection_url, installation.messages)
    about = f"{plan.seconds:g} s, {plan.rate:g} webhooks/s, seed {plan.seed}"
    width = console.width if console.is_terminal else 1000
    outcome.append(verdict(about, ledger, result, drained, width))


@asynccontextmanager
async def _stand_in(plan: DrillPlan) -> AsyncIterator[tuple[Zendesk, Suspensions]]:
    """Start a Zendesk that holds suspended e-mails if webhooks are withheld, too."""
    async with Zendesk() as zendesk:
        zendesk.state.listings.hidden_seconds = HIDDEN_SECONDS
        suspensions = Suspensions(zendesk)
        if WITHHELD in plan.faults:
            suspensions.begin()
        yield zendesk, suspensions


def _note_start(plan: DrillPlan, progress: DrillProgress) -> None:
    progress.note("starting Postgres, Valkey, the sync's targets, 2 web and 3 worker processes")
    if not has_collection():
        progress.note("without the collection: no server of MongoDB's protocol is installed (secantusdb)")
    if SKEW in plan.faults and find_faketime() is None:
        progress.note("without clock.skew: libfaketime is not installed (Debian's package faketime)")


@dataclass(frozen=True)
class _Drill:
    plan: DrillPlan
    installation: Installation
    traffic: Traffic
    ledger: Ledger
    progress: DrillProgress
    suspensions: Suspensions
    connection: Connection | None
    custody: Custody

    async def run(self) -> float:
        """Send webhooks and inject faults, then drain; return the seconds that draining took."""
        await self._send_and_inject()
        self.progress.note("the faults are over; waiting for unfinished e-mails")
        began = time.monotonic()
        await self._drain()
        if problem := await verify_evidence(self.installation):
            self.ledger.unexpected.append(problem)
        self.progress.note("auditing every row, attempt and object")
        return time.monotonic() - began

    async def _send_and_inject(self) -> None:
        """Send all webhooks; each part has one fault at a time."""
        parts: dict[str, list[str]] = defaultdict(list)
        for fault in self.plan.faults:
            if fault in FAULTS:
                parts[fault.partition(".")[0]].append(fault)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.traffic.run(self.plan.webhooks, self.plan.rate, self.progress.sent))
            for part, faults in parts.items():
                group.create_task(self._inject_in_turn(part, faults))
            for fault in POISON.keys() & set(self.plan.faults):
                group.create_task(self._send_poison(fault))
            if REFUSAL in self.plan.faults:
                group.create_task(self._send_unwanted())
            if WITHHELD in self.plan.faults:
                group.create_task(self._recover())
            if self.connection is not None:
                self.connection.begin()
                group.create_task(self._change_connection(self.connection))
            group.create_task(self._keep_custody())

    async def _drain(self) -> None:
        for web in self.installation.webs:
            try:
                await wait_until_ready(web)
            except ServerError as exc:
                self.ledger.unexpected.append(f"{web}: {exc}")
        await self._search()
        await self._wait_for_jobs()
        if WITHHELD in self.plan.faults:
            change_in_zendesk(self.installation.zendesk, self.ledger)
            await self._search()
            await self._wait_for_jobs()

    async def _search(self) -> None:
        if problem := await search(self.installation.variables):
            self.ledger.unexpected.append(problem)

    async def _wait_for_jobs(self) -> None:
        with suppress(TimeoutError):  # the audits report unfinished e-mails
            async with asyncio.timeout(_DRAIN_SECONDS):
                while unfinished := await _count_unfinished(self.installation.database_url):
                    self.progress.draining(unfinished)
                    await asyncio.sleep(0.5)

    async def _inject_in_turn(self, part: str, faults: Sequence[str]) -> None:
        """Inject the faults of a part one after the other, each at least once, until the time is over."""
        deadline = time.monotonic() + self.plan.seconds
        for turn, pause, fault in turns(self.plan, part, faults):
            if turn and time.monotonic() + pause > deadline:
                return
            await asyncio.sleep(pause)
            for attempt in range(_ATTEMPTS):
                chance = Random(f"{self.plan.seed} {fault} {turn} {attempt}")  # noqa: S311 as in `turns`
                if await self._inject(fault, chance):
                    break
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _inject(self, fault: str, chance: Random) -> bool:
        injection = self._begin(fault)
        with self.progress.during(fault):
            try:
                injection.had_effect = await inject(fault, self.installation, chance)
            except Stuck as exc:
                self.ledger.unexpected.append(str(exc))
        injection.ended = time.time()
        _log("drill", f"{fault} {'is over' if injection.had_effect else 'had no effect'}")
        return injection.had_effect

    async def _send_poison(self, fault: str) -> None:
        await asyncio.sleep(1)
        injection = self._begin(fault)
        directory, how = self.installation.fault_points, POISON[fault]
        injection.had_effect = await self.traffic.send_poison(
            fault, lambda ticket: (directory / f"after_claim@{ticket}").write_text(how)
        )

    async def _send_unwanted(self) -> None:
        await asyncio.sleep(1)
        injection = self._begin(REFUSAL)
        injection.had_effect = await self.traffic.send_unwanted(REFUSAL)

    async def _recover(self) -> None:
        """Let suspended e-mails reach their tickets in the middle of the drill."""
        self._begin(WITHHELD)
        await asyncio.sleep(self.plan.seconds / 2)
        self.suspensions.recover(self.ledger)

    async def _change_connection(self, connection: Connection) -> None:
        """Connect, then change the connection in every way that was chosen, one after the other."""
        await connection.connect()
        for change in [each for each in self.plan.faults if each in CHANGES]:
            injection = self._begin(change)
            with self.progress.during(change):
                injection.had_effect = await connection.change(change)
            injection.ended = time.time()
        await connection.end()

    async def _keep_custody(self) -> None:
        """Hold, erase and purge, one after the other."""
        for name in [each for each in self.plan.faults if each in CUSTODY]:
            injection = self._begin(name)
            with self.progress.during(name):
                injection.had_effect = await self.custody.do(name)
            injection.ended = time.time()

    def _begin(self, fault: str) -> Injection:
        injection = Injection(fault, time.time())
        self.ledger.injections.append(injection)
        _log("drill", f"{fault} begins")
        return injection


def _log(name: str, line: str) -> None:
    logging.getLogger(name).info("%s", line)


async def _count_unfinished(database_url: str) -> int:
    try:
        connection = await asyncpg.connect(database_url, timeout=5)
        try:
            return int(await connection.fetchval(_UNFINISHED))
        finally:
            await connection.close()
    except POSTGRES_AWAY:
        return 1  # Postgres is still starting
