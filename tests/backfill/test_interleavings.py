"""Any interleaving of webhooks, lost ones, steps, kills and faults ends with every comment by e-mail exactly once."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.backfill import record
from service.backfill.run import _work, account_of, step
from service.capture.attempt import process
from service.jobs.identity import identify
from service.local.zendesk.audits import Listings
from service.local.zendesk.stand_in import Fault, Zendesk
from service.resources import Resources
from tests.conftest import EMPTY, Client
from tests.support.backfill import make_due, search, without_pause
from tests.support.examples import examples

pytestmark = pytest.mark.long

HELD = settings(
    max_examples=examples(12),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TICKETS = st.integers(1, 3)
OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["announced", "withheld", "follow_up", "web"]), TICKETS),
    st.tuples(
        st.sampled_from(
            [
                *(
                    "step",
                    "step",
                    "step",
                    "due",
                    "killed",
                    "lost",
                    "announce",
                    "nameless",
                    "work",
                    "identify",
                ),
                *("closed", "opened", "error", "refused", "small", "cursor"),
            ]
        ),
        st.just(0),
    ),
)


class World:
    """A Zendesk, a Holdfast, and what the one has told the other."""

    def __init__(
        self, res: Resources, client: Client, zendesk: Zendesk, database: asyncpg.Connection
    ) -> None:
        self.res, self.client, self.zendesk, self.database = res, client, zendesk, database
        self.emails: list[tuple[int, int]] = []  # ticket and comment
        self.withheld: list[tuple[int, int]] = []
        self.begin = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)

    async def empty(self, *, names_messages: bool) -> None:
        await self.database.execute(EMPTY)
        state = self.zendesk.state
        state.listings = Listings(hidden_seconds=0, names_messages=names_messages)
        for held in (state.comments, state.tickets, state.originals, state.api_faults):
            held.clear()

    async def do(self, what: str, ticket: int) -> None:
        if what in {"announced", "withheld", "follow_up", "web"}:
            await self.add(what, ticket)
        elif what in {"closed", "opened", "error", "refused", "small", "cursor"}:
            self.change_zendesk(what)
        elif what in {"announce", "nameless"} and self.withheld:
            await self.announce(*self.withheld.pop(), with_account=what == "announce")
        else:
            await self.go_on(what)

    async def go_on(self, what: str) -> None:
        match what:
            case "step":
                await without_pause(self.database, self.zendesk)
                await step(self.res)
            case "due":
                await make_due(self.database)
            case "killed":
                await without_pause(self.database, self.zendesk)
                await self.res.run(lambda conn: record.take(conn, account_of(self.res), 5))
            case "lost":
                await self.lose_lease()
            case "work":
                await self.work()
            case "identify":
                await self.res.run(lambda conn: identify(conn, 0, 100))

    def change_zendesk(self, what: str) -> None:
        listings = self.zendesk.state.listings
        match what:
            case "closed" | "opened":
                listings.closed = 403 if what == "closed" else None
            case "error" | "refused":
                self.zendesk.state.api_faults.append(Fault(status=500 if what == "error" else 429))
            case "small":
                listings.most_per_page = 2
            case "cursor":
                listings.dead_cursors = 1

    async def add(self, what: str, ticket: int) -> None:
        made_at = self.begin + timedelta(seconds=len(self.emails) // 2)
        if what == "web":
            self.zendesk.add_comment(ticket, channel="web", created_at=made_at)
            return
        follows = 1 if what == "follow_up" else None
        email = (ticket, self.zendesk.add_email(ticket, follows=follows, created_at=made_at))
        self.emails.append(email)
        if what == "announced":
            await self.announce(*email, with_account=True)
        else:
            self.withheld.append(email)

    async def announce(self, ticket: int, comment_id: int, *, with_account: bool) -> None:
        without: dict[str, str | None] = {} if with_account else {"X-Zendesk-Account-Id": None}
        await self.client.send(self.zendesk.announcement(ticket, comment_id), headers=without)

    async def lose_lease(self) -> None:
        """Let another process take over while a step runs."""
        await without_pause(self.database, self.zendesk)
        await self.res.run(lambda conn: record.begin_source(conn, account_of(self.res)))
        held = await self.res.run(lambda conn: record.take(conn, account_of(self.res), 5))
        if held is not None:
            await without_pause(self.database, self.zendesk)
            await self.database.execute("UPDATE sources SET lease_number = lease_number + 1")
            await _work(self.res, held)

    async def work(self) -> None:
        """Run one attempt of each job that waits."""
        rows = await self.database.fetch(
            "SELECT id, attempt_number FROM incoming_emails WHERE processing_status IN ('received', 'queued')"
        )
        for row in rows:
            await process(self.res, row["id"], row["attempt_number"] + 1)

    async def end(self) -> list[str]:
        """Let all that is under way end; return the comments that are e-mails."""
        self.zendesk.state.api_faults.clear()
        for _ in range(2):
            await make_due(self.database)
            await search(self.res, self.database, self.zendesk)
            await self.work()
            await self.res.run(lambda conn: identify(conn, 0, 100))
        rows = await self.database.fetch("SELECT comment_id FROM incoming_emails")
        return sorted(row["comment_id"] for row in rows)


@pytest.mark.timeout(300)
@HELD
@given(names_messages=st.booleans(), operations=st.lists(OPERATIONS, min_size=3, max_size=25))
async def test_every_comment_by_e_mail_is_one_e_mail_in_the_end(
    res: Resources,
    client: Client,
    zendesk: Zendesk,
    database: asyncpg.Connection,
    *,
    names_messages: bool,
    operations: Sequence[tuple[str, int]],
) -> None:
    world = World(res, client, zendesk, database)
    await world.empty(names_messages=names_messages)

    for what, ticket in operations:
        await world.do(what, ticket)

    assert await world.end() == sorted(str(comment_id) for _, comment_id in world.emails)
