"""Random events on jobs, in any order and concurrently: each job is in the state that the table of states requires."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import takewhile
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.jobs import attempts, retries, waiting
from service.jobs.arrival import Arrival, receive
from service.jobs.attempts import Claim, ClaimRequest, Failure, Settlement
from service.jobs.waiting import Job
from service.postgres.email_tables import PROCESSING, STATUSES, WAITING
from service.postgres.engine import create_engine
from tests.conftest import EMPTY
from tests.support.examples import examples

pytestmark = pytest.mark.long

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
GONE = timedelta(seconds=-1)
SPREAD = timedelta(seconds=10)
BROKEN = Failure("broken", "It broke.")
FILE = {"position": 0, "source_url": "u", "file_name": None, "declared_type": None, "declared_size": None}

EXAMPLES = settings(
    max_examples=examples(20),
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=[*HealthCheck],
)

Operation = Callable[[AsyncConnection], Awaitable[Any]]
# Ends of an attempt: the outcome, the new state of the job, its error.
ENDS = {
    "completed": ("completed", None),
    "released": ("queued", "broken"),
    "handed_back": ("queued", None),
    "failed": ("failed", "broken"),
}


@dataclass
class Model:
    """The expected state of one job."""

    email_id: int
    ticket_id: str
    comment_id: str | None
    status: str = "received"
    outcomes: list[str | None] = field(default_factory=list)  # of the attempts 1, 2, …
    retry_count: int = 0
    abandoned_count: int = 0
    budget_begins: int = 0  # attempts before the last retry by an operator
    error_code: str | None = None

    def is_held(self, claim: Claim) -> bool:
        return self.status == "processing" and claim.attempt_number == len(self.outcomes)

    def has_ended(self, claim: Claim, outcome: str) -> bool:
        return self.outcomes[claim.attempt_number - 1 : claim.attempt_number] == [outcome]

    def claim(self, ago: int = 0) -> Claim:
        """Make the claim of the newest attempt, of an earlier one, or of a future one."""
        number = len(self.outcomes) - ago
        return Claim(self.email_id, number, self.retry_count, self.ticket_id, self.comment_id)

    def end(self, outcome: str, status: str, error_code: str | None) -> None:
        self.outcomes[-1], self.status, self.error_code = outcome, status, error_code
        self.retry_count += outcome == "released" and status == "queued"
        if outcome != "handed_back":
            self.abandoned_count = self.abandoned_count + 1 if outcome == "abandoned" else 0


def wish(job: Job, worker: str, lease: timedelta) -> Operation:
    return lambda conn: one(attempts.claim(conn, [ClaimRequest(job, worker, lease)]))


def settle(claim: Claim, outcome: str, delay: timedelta = HOUR) -> Operation:
    return lambda conn: one(attempts.settle(conn, [settlement(claim, outcome, delay)]))


def settlement(claim: Claim, outcome: Any, delay: timedelta = HOUR) -> Settlement:
    failure = BROKEN if outcome in ("released", "failed") else None
    return Settlement(claim, outcome, failure, delay if outcome == "released" else timedelta(0))


async def one(results: Awaitable[list[Any]]) -> Any:
    [result] = await results
    return result


class Jobs(RuleBasedStateMachine):
    """Random events; no draw depends on earlier results, because some events are races."""

    emails: Bundle[int] = Bundle("emails")
    newest = st.booleans()
    at_once = st.sampled_from([1, 2])
    claims: Bundle[Claim] = Bundle("claims")  # valid, lost, and never given: only the number counts

    def __init__(self, runner: asyncio.Runner, connections: tuple[AsyncConnection, AsyncConnection]) -> None:
        super().__init__()
        self.runner = runner
        self.connections = connections
        self.models: dict[int, Model] = {}
        self.rows: dict[int, dict[str, Any]] = {}  # the rows after the previous step
        self.touched: set[int] = set()  # e-mails that this step may change
        self.run(lambda conn: conn.execute(text(EMPTY)))

    def run(self, *operations: Operation) -> list[Any]:
        """Run one or more operations concurrently."""

        async def together() -> list[Any]:
            pairs = zip(operations, self.connections, strict=False)
            return await asyncio.gather(*(operation(conn) for operation, conn in pairs))

        self.touched = set()
        return self.runner.run(together())

    # The side before an attempt

    @precondition(lambda self: len(self.models) < 3)
    @rule(target=emails, is_thin=st.booleans(), senders=at_once)
    def receive(self, is_thin: bool, senders: int) -> int:  # noqa: FBT001 hypothesis passes it
        number = len(self.models) + 1
        email: dict[str, Any] = {
            "zendesk_ticket_id": f"ticket {number}",
            "idempotency_key": f"key {number}",
            "attachment_urls": None if is_thin else [],
            "comment_id": "comment",
        }

        told = self.run(*[lambda conn: receive(conn, [Arrival(email, [FILE])])] * senders)
        ids = [recorded.email_id if recorded.is_new else None for [recorded] in told]

        (email_id,) = (each for each in ids if each is not None)
        self.models[email_id] = Model(email_id, f"ticket {number}", "comment")
        self.touched = {email_id}
        return int(email_id)

    @rule(email=emails)
    def receive_again(self, email: int) -> None:
        key = self.rows[email]["idempotency_key"]
        again = {"zendesk_ticket_id": "another", "idempotency_key": key}

        [[recorded]] = self.run(lambda conn: receive(conn, [Arrival(again, [FILE])]))
        assert not recorded.is_new

    @rule(emails=st.lists(emails, max_size=3))
    def mark_queued(self, emails: list[int]) -> None:
        self.run(lambda conn: waiting.mark_queued(conn, emails))

        for email in emails:
            if self.models[email].status == "received":
                self.models[email].status = "queued"
                self.touched.add(email)

    @rule(emails=st.lists(emails, max_size=3), limit=st.sampled_from([1, 2, 100]), sweeps=at_once)
    def take_due(self, emails: list[int], limit: int, sweeps: int) -> None:
        """Half were never queued, the others are the oldest, none is a suspect; no two sweeps take one job, and none is due soon."""
        for email in emails:
            self.change(email, f"due_at = now() - interval '1 s' WHERE {WAITING}")
            self.all_is_well()
        rows = [
            row
            for row in self.rows.values()
            if row["processing_status"] in ("received", "queued") and not row["abandoned_count"]
        ]
        due = {row["id"]: row["due_at"] for row in rows if row["due_at"] <= row["now"]}

        swept = self.run(*[lambda conn: waiting.take_due(conn, limit)] * sweeps)

        taken = [job for jobs in swept for job in jobs]
        self.touched = ids = {job.email_id for job in taken}
        assert len(ids) == len(taken) >= min(limit, len(due))
        for job in taken:
            assert self.models[job.email_id].status in ("received", "queued")
            assert self.models[job.email_id].abandoned_count == 0
            assert job.attempt_number == len(self.models[job.email_id].outcomes) + 1
        left = [due_at for id_, due_at in due.items() if id_ not in ids]
        before = self.rows
        queued = [id_ for id_ in ids if before[id_]["processing_status"] == "queued"]
        assert all(before[id_]["due_at"] <= due_at for id_ in queued for due_at in left)
        self.all_is_well()
        assert all(self.rows[id_]["due_at"] >= before[id_]["due_at"] + timedelta(seconds=10) for id_ in ids)

    @rule(email=emails, operators=at_once)
    def retry(self, email: int, operators: int) -> None:
        model = self.models[email]

        retried = self.run(*[lambda conn: retries.retry(conn, [email], "tests")] * operators)

        queued = [job for jobs in retried for job in jobs]
        if model.status not in ("completed", "failed"):
            assert queued == []
            return
        assert queued == [Job(email, len(model.outcomes) + 1)]
        model.status, model.retry_count, model.error_code = "queued", 0, None
        model.abandoned_count = 0
        model.budget_begins = len(model.outcomes)
        self.touched = {email}

    # Attempts

    @rule(
        target=claims,
        email=emails,
        lease=st.sampled_from([HOUR, HOUR, GONE]),
        beside=st.sampled_from([0, 0, 0, 0, -1, 1]),
        rival=st.sampled_from(["", "claims", "marks"]),
    )
    def claim(self, email: int, lease: timedelta, beside: int, rival: str) -> Claim:
        """Claim by the right message, a late or a future one; perhaps concurrently with another claim, or with intake."""
        model = self.models[email]
        claim = model.claim(ago=-1 - beside)
        job = Job(*claim.fencing_token)
        rivals: dict[str, list[Operation]] = {
            "": [],
            "claims": [wish(job, "rival", lease)],
            "marks": [lambda conn: waiting.mark_queued(conn, [email])],
        }

        given = self.run(wish(job, "worker", lease), *rivals[rival])

        if rival == "marks" and model.status == "received":
            model.status = "queued"
            self.touched = {email}
        if beside or model.status not in ("received", "queued"):
            assert not any(given)
            return claim
        assert [each for each in given if each] == [claim]
        model.outcomes.append(None)
        model.status = "processing"
        self.touched = {email}
        return claim

    @rule(email=emails)
    def let_lease_expire(self, email: int) -> None:
        self.change(email, f"lease_until = now() - interval '1 s' WHERE {PROCESSING}")

    @rule(claims=st.lists(claims, min_size=1, max_size=4), lease=st.sampled_from([HOUR, GONE]))
    def renew(self, claims: list[Claim], lease: timedelta) -> None:
        (held,) = self.run(lambda conn: attempts.renew(conn, {each.fencing_token for each in claims}, lease))

        assert held == {each.fencing_token for each in claims if self.models[each.email_id].is_held(each)}
        self.touched = {email for email, _ in held}

    @rule(
        claim=claims,
        is_newest=newest,
        outcomes=st.lists(st.sampled_from(list(ENDS)), min_size=1, max_size=2),
        delay=st.sampled_from([timedelta(0), HOUR]),
    )
    def settle(self, claim: Claim, outcomes: list[str], delay: timedelta, *, is_newest: bool) -> None:
        """Only a valid claim can settle, and only once; an equal repetition succeeds."""
        model = self.models[claim.email_id]
        claim = model.claim() if is_newest else claim
        was_held = model.is_held(claim)

        done = self.run(*(settle(claim, outcome, delay) for outcome in outcomes))

        if was_held:
            outcome = outcomes[done.index(True)]
            model.end(outcome, *ENDS[outcome])
            self.touched = {claim.email_id}
        assert done == [model.has_ended(claim, outcome) for outcome in outcomes]

    @rule(emails=st.lists(emails, min_size=1, max_size=4), workers=at_once)
    def claim_together(self, emails: list[int], workers: int) -> None:
        """Claim many jobs, some twice, while another worker claims them in reverse order: each is claimed once."""
        free = {email for email in emails if self.models[email].status in ("received", "queued")}
        requests = [
            ClaimRequest(Job(*self.models[email].claim(ago=-1).fencing_token), "worker", HOUR)
            for email in emails
        ]
        orders = (requests, requests[::-1])

        given = self.run(*[partial(attempts.claim, requests=order) for order in orders[:workers]])

        claims = [
            (wish.job, claim)
            for order, one in zip(orders, given, strict=False)
            for wish, claim in zip(order, one, strict=True)
            if claim
        ]
        assert all(job == Job(*claim.fencing_token) for job, claim in claims)
        assert sorted(job.email_id for job, _ in claims) == sorted(free)
        for email in free:
            self.models[email].outcomes.append(None)
            self.models[email].status = "processing"
        self.touched = free

    @rule(ends=st.lists(st.tuples(claims, st.sampled_from(list(ENDS))), min_size=1, max_size=5))
    def settle_together(self, ends: list[tuple[Claim, str]]) -> None:
        """Settle valid, lost and unknown claims, some twice: each has its own result."""
        (done,) = self.run(
            lambda conn: attempts.settle(conn, [settlement(claim, outcome) for claim, outcome in ends])
        )

        for (claim, outcome), is_so in zip(ends, done, strict=True):
            if is_so and self.models[claim.email_id].is_held(claim):
                self.models[claim.email_id].end(outcome, *ENDS[outcome])
                self.touched.add(claim.email_id)
        assert done == [self.models[claim.email_id].has_ended(claim, outcome) for claim, outcome in ends]
        assert not any(self.models[claim.email_id].is_held(claim) for claim, _ in ends)

    @rule(most=st.sampled_from([1, 2, 3, 6]), limit=st.sampled_from([1, 100]), sweeps=at_once)
    def take_back(self, most: int, limit: int, sweeps: int) -> None:
        expired = self.expired()

        counts = self.run(
            *[lambda conn: attempts.take_back(conn, limit, SPREAD, most_abandoned=most)] * sweeps
        )

        taken_back = expired[: sum(counts)]
        if sweeps == 1 or limit > len(expired):
            assert len(taken_back) == sum(counts) == min(limit, len(expired))
        for email in taken_back:
            self.abandon(email, most)
        self.touched = set(taken_back)

    @rule(email=emails, events=st.lists(st.sampled_from([*ENDS, "abandoned", "late", "retried"]), max_size=6))
    def live(self, email: int, events: list[str]) -> None:
        """Run through all stages of a job; any stage may be left out."""
        model = self.models[email]
        for event in events:
            if event == "retried":
                self.retry(email, 1)
            else:
                self.claim(email, GONE if event == "abandoned" else HOUR, 0, "")
                self.all_is_well()
                if event == "late":
                    self.renew([model.claim(ago=1)], HOUR)
                    self.all_is_well()
                    self.settle(model.claim(ago=1), ["completed"], HOUR, is_newest=False)
                elif event == "abandoned":
                    self.take_back(3, 100, 1)
                else:
                    self.settle(model.claim(), [event], HOUR, is_newest=False)
            self.all_is_well()

    @rule(
        claim=claims, is_newest=newest, outcome=st.sampled_from(list(ENDS)), most=st.sampled_from([1, 2, 6])
    )
    def settle_during_a_sweep(self, claim: Claim, outcome: str, most: int, *, is_newest: bool) -> None:
        """Settle while the sweep takes jobs back: the worker settles its job or loses it, and never half."""
        model = self.models[claim.email_id]
        claim = model.claim() if is_newest else claim
        expired = self.expired()
        was_held = model.is_held(claim)

        done, taken_back = self.run(
            settle(claim, outcome), lambda conn: attempts.take_back(conn, 100, SPREAD, most_abandoned=most)
        )

        settled = [claim.email_id] if done and was_held else []
        if settled:
            model.end(outcome, *ENDS[outcome])
        lost = [email for email in expired if email not in settled]
        assert taken_back == len(lost)
        for email in lost:
            self.abandon(email, most)
        assert done == model.has_ended(claim, outcome)
        assert not model.is_held(claim)
        self.touched = {*lost, *settled}

    def abandon(self, email: int, most: int) -> None:
        model = self.models[email]
        model.end("abandoned", "queued" if model.abandoned_count + 1 < most else "failed", "abandoned")

    def expired(self) -> list[int]:
        """List jobs with an expired lease, oldest first."""
        leases = {email: row["lease_until"] for email, row in self.rows.items() if row["lease_until"]}
        return sorted((e for e in leases if leases[e] <= self.rows[e]["now"]), key=leases.__getitem__)

    def change(self, email: int, assignment: str) -> None:
        self.run(lambda conn: conn.execute(text(f"UPDATE incoming_emails SET {assignment} AND id = {email}")))
        self.touched = {email}

    # Invariants

    @invariant()
    def all_is_well(self) -> None:
        self.what_was_not_touched_is_as_it_was()
        self.the_database_says_what_the_model_says()
        self.each_row_makes_sense_by_itself()
        self.the_history_tells_the_retries()

    def what_was_not_touched_is_as_it_was(self) -> None:
        touched = self.touched
        (rows,) = self.run(read)

        for email, row in self.rows.items():
            if email not in touched:
                assert {**rows[email], "now": None} == {**row, "now": None}
        self.rows = rows

    def the_database_says_what_the_model_says(self) -> None:
        assert set(self.rows) == set(self.models)
        for email, model in self.models.items():
            row = self.rows[email]
            assert row["processing_status"] == model.status
            assert [attempt["outcome"] for attempt in row["attempts"]] == model.outcomes
            assert (row["retry_count"], row["error_code"]) == (model.retry_count, model.error_code)
            assert row["abandoned_count"] == model.abandoned_count

    def each_row_makes_sense_by_itself(self) -> None:
        for row in self.rows.values():
            status, attempts = row["processing_status"], row["attempts"]
            is_over = status in ("completed", "failed")
            assert status in STATUSES
            assert [each["number"] for each in attempts] == list(range(1, row["attempt_number"] + 1))
            assert [each["outcome"] is None for each in attempts[:-1]] == [False] * len(attempts[:-1])
            assert (bool(attempts) and attempts[-1]["outcome"] is None) == (status == "processing")
            assert all((each["outcome"] is None) == (each["finished_at"] is None) for each in attempts)
            assert (row["lease_until"] is not None) == (status == "processing")
            assert (row["completed_at"] is not None) == is_over
            assert (row["error_code"] is None) == (row["processing_error"] is None)
            assert row["error_code"] is not None or status != "failed"
            assert row["error_code"] is None or status != "completed"
            assert_in_order(row["received_at"], row["started_at"], row["completed_at"])
            for attempt in attempts:
                assert_in_order(row["received_at"], attempt["started_at"], attempt["finished_at"])
            if status in ("received", "queued"):
                was_released = bool(attempts) and attempts[-1]["outcome"] == "released"
                assert row["due_at"] <= row["now"] + (HOUR if was_released else 10 * MINUTE)

    def the_history_tells_the_retries(self) -> None:
        for email, model in self.models.items():
            row = self.rows[email]
            outcomes = [each["outcome"] for each in row["attempts"]][model.budget_begins :]
            assert row["retry_count"] == outcomes.count("released")
            in_a_row = takewhile(
                "abandoned".__eq__, [o for o in reversed(outcomes) if o and o != "handed_back"]
            )
            assert row["abandoned_count"] == len(list(in_a_row))


def assert_in_order(*times: datetime | None) -> None:
    known = [time for time in times if time]
    assert known == sorted(known)


async def read(conn: AsyncConnection) -> dict[int, dict[str, Any]]:
    """Return each e-mail with its attempts."""
    emails = await conn.execute(text("SELECT *, now() AS now FROM incoming_emails"))
    rows = {row["id"]: {**row, "attempts": []} for row in emails.mappings()}
    for attempt in (await conn.execute(text("SELECT * FROM attempts ORDER BY email_id, number"))).mappings():
        rows[attempt["email_id"]]["attempts"].append(dict(attempt))
    return rows


@pytest.mark.timeout(300)  # 1,600 steps
def test_jobs_follow_the_table_of_states(database_url: str) -> None:
    """The test runs any sequence of events, also events that the current state does not allow."""

    async def close() -> None:
        for conn in connections:
            await conn.close()
        await engine.dispose()

    with asyncio.Runner() as runner:
        engine = create_engine(database_url, pool_size=2, seconds=30)
        connections = (runner.run(open_one(engine)), runner.run(open_one(engine)))
        try:
            run_state_machine_as_test(
                partial(Jobs, runner, connections),  # type: ignore[arg-type] # any factory will do
                settings=EXAMPLES,
            )
        finally:
            runner.run(close())


async def open_one(engine: AsyncEngine) -> AsyncConnection:
    return await engine.connect()
