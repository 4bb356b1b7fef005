"""Random events on e-mails: what is dismissed needs nobody until it fails again, and the counts agree with the rows."""

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Rejected
from service.jobs import announcements, attempts, retries, syncs
from service.jobs.attempts import ClaimRequest, Failure, Settlement
from service.jobs.syncs import SyncClaimRequest, SyncSettlement
from service.jobs.waiting import Job
from service.operate import dismiss
from service.postgres.engine import connect, run
from service.queries import emails, failures, overview
from service.queries.emails import EmailFilter
from service.resources import Resources
from tests.support.examples import examples

LEASE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
async def empty(database: asyncpg.Connection) -> None:
    """Start without e-mails."""


async def dismissed_ids(res: Resources) -> set[int]:
    page = await emails.list_emails(res.engine, EmailFilter(dismissed=True))
    return {email.id for email in page.emails}


async def code_of(refused: Awaitable[None]) -> tuple[int, str]:
    with pytest.raises(Rejected) as error:
        await refused
    return error.value.status, error.value.code


@dataclass
class Model:
    """The expected state of an e-mail; its sync is as far as its job lets it be."""

    email_id: int
    attempt_number: int = 0
    status: str = "received"
    sync_status: str = "pending"
    is_dismissed: bool = False

    @property
    def is_over(self) -> bool:
        return self.status in {"completed", "failed"}

    @property
    def has_failed(self) -> bool:
        return self.is_over and "failed" in (self.status, self.sync_status)

    def needs_attention(self, status: str) -> bool:
        return status == "failed" and not self.is_dismissed


async def end_job(conn: AsyncConnection, email: Model, outcome: str) -> None:
    """Run an attempt, if the job waits for one."""
    request = ClaimRequest(Job(email.email_id, email.attempt_number + 1), "worker", LEASE)
    (claimed,) = await attempts.claim(conn, [request])
    assert (claimed is None) is email.is_over
    if claimed is None:
        return
    failure = Failure("gone", "It is gone.") if outcome == "failed" else None
    await attempts.settle(conn, [Settlement(claimed, outcome, failure, sync_status="pending")])  # type: ignore[arg-type]
    email.attempt_number += 1
    email.status, email.sync_status, email.is_dismissed = outcome, "pending", False


async def end_sync(conn: AsyncConnection, email: Model, outcome: str) -> None:
    """Run an attempt of the sync, if it is pending. A failure is news, also of a dismissed e-mail."""
    (claimed,) = await syncs.claim(conn, [SyncClaimRequest(email.email_id, LEASE)])
    if claimed is None:
        return
    await syncs.settle(conn, [SyncSettlement(claimed, outcome, "refused", "It was refused.")])  # type: ignore[arg-type]
    email.sync_status = outcome
    email.is_dismissed = email.is_dismissed and outcome != "failed" and email.has_failed


async def retry_job(res: Resources, email: Model) -> None:
    async with connect(res.engine) as conn:
        assert bool(await retries.retry(conn, [email.email_id], "ada")) is email.is_over
    if email.is_over:
        email.status, email.is_dismissed = "queued", False


async def retry_sync(res: Resources, email: Model) -> None:
    async with connect(res.engine) as conn:
        assert bool(await retries.retry(conn, [email.email_id], "ada", "sync")) is email.is_over
    if email.is_over:
        email.sync_status = "pending"
        email.is_dismissed = email.is_dismissed and email.has_failed


async def announce(res: Resources, email: Model) -> None:
    """Add a file to it, as a further webhook or a look-up does."""
    async with connect(res.engine) as conn:
        await announcements.reopen(conn, [email.email_id])
    if email.is_over:
        email.status, email.is_dismissed = "queued", False


async def dismiss_one(res: Resources, email: Model) -> None:
    if email.has_failed and not email.is_dismissed:
        await dismiss.dismiss(res, email.email_id, "ada", "It is gone.")
        email.is_dismissed = True
        return
    code = "already_dismissed" if email.has_failed else "not_failed"
    assert await code_of(dismiss.dismiss(res, email.email_id, "ada", "It is gone.")) == (409, code)


async def undismiss_one(res: Resources, email: Model) -> None:
    if email.is_dismissed:
        await dismiss.undismiss(res, email.email_id, "ada")
        email.is_dismissed = False
        return
    assert await code_of(dismiss.undismiss(res, email.email_id, "ada")) == (409, "not_dismissed")


def with_connection(
    do: Callable[[AsyncConnection, Model, str], Awaitable[None]], outcome: str
) -> Callable[[Resources, Model], Awaitable[None]]:
    return lambda res, email: run(res.engine, 30, lambda conn: do(conn, email, outcome))


EVENTS: tuple[Callable[[Resources, Model], Awaitable[None]], ...] = (
    with_connection(end_job, "failed"),
    with_connection(end_job, "completed"),
    with_connection(end_sync, "failed"),
    with_connection(end_sync, "synced"),
    retry_job,
    retry_sync,
    announce,
    dismiss_one,
    dismiss_one,
    undismiss_one,
)


@pytest.mark.parametrize("seed", range(examples(2)))
async def test_counts_agree_with_the_rows_after_any_events(
    seed: int, res: Resources, database: asyncpg.Connection
) -> None:
    rng = random.Random(seed)
    rows = await database.fetch(
        "INSERT INTO incoming_emails (zendesk_ticket_id, sync_status) SELECT n, 'pending'"
        " FROM generate_series(1, 6) AS n RETURNING id"
    )
    models = [Model(row["id"]) for row in rows]

    for _ in range(90):
        await rng.choice(EVENTS)(res, rng.choice(models))

        stats = await overview.stats(res.engine)
        counted = Counter(email.status for email in models)
        assert {status: n for status, n in stats.by_status.items() if n} == counted
        assert stats.open_failed == sum(email.needs_attention(email.status) for email in models)
        assert stats.open_sync_failed == sum(email.needs_attention(email.sync_status) for email in models)
        assert stats.dismissed == sum(email.is_dismissed for email in models)
    groups = (await failures.list_failures(res.engine)).failures
    assert sum(group.count for group in groups) == stats.open_failed
    assert await dismissed_ids(res) == {email.email_id for email in models if email.is_dismissed}
    for email in models:
        shown = await emails.get_email(res.engine, email.email_id)
        assert (shown.dismissal is not None, shown.has_failed) == (email.is_dismissed, email.has_failed)
