"""A machine that does to e-mails what can be done to them, in any order, and knows what must be on record."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any

import asyncpg

from service.custody import erasure, tombstone_copies
from service.custody.holds import HoldOrder, release_hold, set_hold
from service.custody.purge import purge
from service.custody.scopes import scope_of
from service.errors import Rejected, Transient
from service.jobs import attempts, discovery, loose_objects
from service.jobs.arrival import Arrival, receive
from service.jobs.attachments import FileUpdate, mark
from service.jobs.attempts import Claim, ClaimRequest, Failure, Settlement
from service.jobs.discovery import Discovery
from service.jobs.object_references import ObjectRemoved, Proofs, write_references
from service.jobs.waiting import Job
from service.operate.replay import replay_webhook
from service.operate.retry import retry
from service.postgres.selection import LastingFilter
from service.reconcile.objects import compare_range
from service.resources import Resources
from service.storage import objects
from service.storage.interface import ALL
from tests.support.removing import remove_object_files
from tests.support.rows import NOON, add

ACCOUNT, ACTOR = "1", "tests"
SENDERS = ("ann@customer.example", "bob@customer.example")
TICKETS = (1, 2, 3)
HELD = {"held"}
NOTHING = {"nothing_to_erase"}


@dataclass(frozen=True)
class Comment:
    """An e-mail at Zendesk: with a file that others may have, too."""

    number: int
    ticket: int
    sender: str
    content: bytes

    @property
    def found(self) -> Discovery:
        return Discovery(str(self.ticket), str(self.number), NOON)


@dataclass(frozen=True)
class Hold:
    """A hold in force, as the machine knows it."""

    name: str
    ticket: int | None = None
    sender: str | None = None
    comment: int | None = None

    def covers(self, each: Comment, *, is_nameless: bool) -> bool:
        """Say whether it covers an e-mail; one whose sender is not known is covered by each hold of a sender."""
        is_theirs = self.sender is not None and (is_nameless or each.sender == self.sender)
        return is_theirs or each.ticket == self.ticket or each.number == self.comment


class Machine:
    """Postgres and a storage, and what must be there: `here` and `erased` are numbers of comments."""

    def __init__(self, res: Resources, database: asyncpg.Connection, seed: int) -> None:
        self.res, self.database, self.chance = res, database, Random(seed)
        self.comments: dict[int, Comment] = {}
        self.here: dict[int, int] = {}  # the id of its e-mail
        self.erased: set[int] = set()
        # E-mails that a search found, before a look-up told their senders: no erasure of a sender can know them.
        self.nameless: set[int] = set()
        # Comments of erased tickets: no search brings them. What a webhook says of a comment is believed until its look-up.
        self.made_before: set[int] = set()
        self.holds: dict[str, Hold] = {}
        self.made = 0
        self.was_restored = False
        # Operations that make e-mails, or work on them, come more often.
        self.events: list[Callable[[], Awaitable[None]]] = [
            *(self.accept, self.accept, self.withhold, self.announce, self.work, self.work, self.work),
            *(self.be_killed, self.retry, self.hold, self.release, self.release, self.retain, self.erase),
            *(self.replay, self.back_fill, self.reconcile, self.restore),
        ]

    async def step(self) -> str:
        """Do something, and check what is on record; return what it was."""
        event = self.chance.choice(self.events)
        await event()
        await self.check()
        return event.__name__

    async def check(self) -> None:
        rows = await self.database.fetch("SELECT id, comment_id, from_email FROM incoming_emails")
        self.nameless = {int(row["comment_id"]) for row in rows if row["from_email"] is None}
        found = {int(row["comment_id"]): row["id"] for row in rows}
        assert len(found) == len(rows)
        assert not found.keys() & self.erased, found.keys() & self.erased
        assert found == self.here, (found, self.here)

    async def drain(self) -> None:
        """End all jobs and removals; then each stored file has an object, and each object a name."""
        while unfinished := await self._unfinished():
            await self._run(self._comment_of(unfinished[0]))
        await self.database.execute("UPDATE loose_objects SET due_at = now()")
        await remove_object_files(self.res, self.database)
        rows = await self.database.fetch("SELECT object_key FROM attachments WHERE status = 'stored'")
        assert {each.key async for each in objects.listing(self.res.storage, ALL)} == {row[0] for row in rows}
        assert await self.database.fetchval("SELECT count(*) FROM loose_objects") == 0

    async def accept(self) -> None:
        await self._announce(self._new_comment())

    async def withhold(self) -> None:
        self._new_comment()

    async def announce(self) -> None:
        if self.comments:
            await self._announce(self.chance.choice([*self.comments.values()]))

    async def work(self) -> None:
        if unfinished := await self._unfinished():
            await self._run(self._comment_of(self.chance.choice(unfinished)))

    async def be_killed(self) -> None:
        """Let a worker die after the put: its object has no name yet."""
        if unfinished := await self._unfinished():
            email_id = self.chance.choice(unfinished)
            await self._claim(email_id)
            await self._put(self._comment_of(email_id))
            await self.database.execute(
                "UPDATE incoming_emails SET lease_until = now() WHERE id = $1", email_id
            )
            await self.res.run(lambda conn: attempts.take_back(conn, 10))

    async def retry(self) -> None:
        if self.here:
            with suppress(Rejected):
                await retry(self.res, self.chance.choice([*self.here.values()]), ACTOR)

    async def hold(self) -> None:
        self.made += 1
        name = f"hold-{self.made}"
        ticket, sender = self.chance.choice(TICKETS), self.chance.choice(SENDERS)
        listed = self.chance.choice([*self.here]) if self.here else None
        chosen = self.chance.choice(
            [Hold(name, ticket=ticket), Hold(name, sender=sender), Hold(name, comment=listed)]
        )
        wanted = LastingFilter(ticket=None if chosen.ticket is None else str(ticket), sender=chosen.sender)
        if chosen.comment is not None:
            order = HoldOrder(name, "Why.", None, [self.here[chosen.comment]])
        elif chosen.ticket or chosen.sender:
            order = HoldOrder(name, "Why.", wanted)
        else:
            return
        await set_hold(self.res, order, ACTOR)
        self.holds[name] = chosen

    async def release(self) -> None:
        if self.holds:
            name = self.chance.choice([*self.holds])
            await release_hold(self.res, name, ACTOR, "Over.")
            del self.holds[name]

    async def retain(self) -> None:
        """Purge a ticket by a rule that deletes at once."""
        ticket = self.chance.choice(TICKETS)
        rule: dict[str, Any] = {"position": 0, "name": "rule", "keep_days": 0, "created_by": ACTOR}
        await add(self.database, "retention_rules", **rule, filter=json.dumps({"ticket": str(ticket)}))
        done = {*await self._with_status("completed")}
        await purge(self.res, ACTOR)
        await self.database.execute("DELETE FROM retention_rules")
        for number in [each for each, email_id in self.here.items() if email_id in done]:
            if self.comments[number].ticket == ticket and not self._is_held(number):
                del self.here[number]

    async def erase(self) -> None:
        ticket, sender = self.chance.choice(TICKETS), self.chance.choice(SENDERS)
        kind = self.chance.choice(["ticket", "sender", "email"])
        one = self.chance.choice([*self.here]) if self.here else 0
        chosen = {
            number
            for number in self.here
            if (kind == "ticket" and self.comments[number].ticket == ticket)
            or (kind == "sender" and self.comments[number].sender == sender and number not in self.nameless)
            or (kind == "email" and number == one)
        }
        given: dict[str, str | int | None] = {
            "ticket": str(ticket),
            "sender": sender,
            "email": self.here.get(one, 0),
        }
        refusals = HELD if any(map(self._is_held, chosen)) else set() if chosen else NOTHING
        await self._save_backup(chosen)
        try:
            number = await erasure.start(self.res, scope_of({kind: given[kind]}), "Asked for.", ACTOR)
        except Rejected as exc:
            assert exc.code in refusals  # noqa: PT017 whether it may be refused
            return
        assert not refusals
        assert (await erasure.run(self.res, number)).status == "done"
        self._forget(chosen)
        # Comments from before the erasure of their ticket stay away, also those that were never here.
        if kind == "ticket":
            self.made_before |= {each.number for each in self.comments.values() if each.ticket == ticket}

    async def replay(self) -> None:
        """Replay a webhook that an older version could not parse."""
        if not self.comments:
            return
        each = self.chance.choice([*self.comments.values()])
        self.made += 1
        body = {
            "ticket_id": each.ticket,
            "comment_id": each.number,
            "from_email": each.sender,
            "n": self.made,
        }
        row = {
            "idempotency_key": f"q-{self.made}",
            "account_id": ACCOUNT,
            "raw_body": json.dumps(body).encode(),
        }
        wrong = {"raw_headers": "[]", "error_code": "not_json", "error": "No."}
        number = await add(self.database, "quarantined_webhooks", **row, **wrong)
        result = await replay_webhook(self.res, number, ACTOR)
        assert (result.status == "erased") == (each.number in self.erased)
        if result.number is not None:
            self.here.setdefault(each.number, result.number)

    async def back_fill(self) -> None:
        found = [each.found for each in self.comments.values()]
        gone = await self.database.fetch("SELECT comment_id FROM removed_emails WHERE comment_id IS NOT NULL")
        add_all = partial(discovery.add, account_id=ACCOUNT, found=found, origin=discovery.BACKFILL)
        new = await self.res.run(lambda conn: add_all(conn, sync_status="not_applicable"))
        numbers = {int(comment): email_id for (_, comment), email_id in new.items()}
        assert not numbers.keys() & ({int(row[0]) for row in gone} | self.made_before)
        self.here |= numbers

    async def reconcile(self) -> None:
        assert (await compare_range(self.res, ALL)).findings == []

    async def restore(self) -> None:
        """Bring back from a backup, which has no tombstones, what was erased since."""
        if self.holds or not self.erased:
            return
        lines = [line async for line in tombstone_copies.copied(self.res)]
        await self.database.execute("DELETE FROM tombstones; DELETE FROM erasure_salts")
        # An erasure that was refused left its e-mails in the backup, and a purge may have removed them since.
        numbers = [str(number) for number in self.erased]
        await self.database.execute("DELETE FROM backup WHERE comment_id <> ALL ($1)", numbers)
        await self.database.execute("DELETE FROM removed_emails WHERE email_id IN (SELECT id FROM backup)")
        await self.database.execute(
            "INSERT INTO incoming_emails OVERRIDING SYSTEM VALUE SELECT * FROM backup ON CONFLICT DO NOTHING"
        )
        number = await tombstone_copies.restore(self.res, lines, ACTOR)
        assert (await erasure.run(self.res, number)).status == "done"
        self.was_restored = True

    def _new_comment(self) -> Comment:
        self.made += 1
        content = self.chance.choice([b"logo", b"letter", b"invoice %d" % self.made])
        made = Comment(100_000 + self.made, self.chance.choice(TICKETS), self.chance.choice(SENDERS), content)
        self.comments[made.number] = made
        return made

    async def _announce(self, each: Comment) -> None:
        self.made += 1
        columns = {
            "idempotency_key": f"key-{self.made}",
            "zendesk_ticket_id": str(each.ticket),
            "comment_id": str(each.number),
            "account_id": ACCOUNT,
            "from_email": each.sender,
            "raw_body": b'{"number": %d, "n": %d}' % (each.number, self.made),
            "raw_headers": [],
            "attachment_urls": [],
        }
        names = ("source_url", "file_name", "declared_type", "declared_size")
        file = {"position": 0, **dict.fromkeys(names), "source_url": f"https://files.example/{each.number}"}
        [recorded] = await self.res.run(lambda conn: receive(conn, [Arrival(columns, [file])]))
        if recorded.email_id is not None and each.number not in self.erased:
            self.here.setdefault(each.number, recorded.email_id)

    async def _run(self, each: Comment) -> None:
        """Run an attempt; some fail."""
        claim = await self._claim(self.here[each.number])
        failure = Failure("gone", "It is gone.") if self.chance.random() < 0.2 else None
        with suppress(Transient):  # an equal object was removed at this moment
            if failure is None and await self._has_file(claim.email_id):
                stored = await self._put(each)
                update = FileUpdate(claim.fencing_token, 0, "stored", stored)
                await write_references(self.res.storage, partial(self._mark, update))
            outcome = Settlement(claim, "failed" if failure else "completed", failure)
            await self.res.run(lambda conn: attempts.settle(conn, [outcome]))
            return
        again = Settlement(claim, "handed_back")
        await self.res.run(lambda conn: attempts.settle(conn, [again]))

    async def _mark(self, update: FileUpdate, proofs: Proofs) -> None:
        assert update.stored is not None
        proven = FileUpdate(
            update.token, update.position, "stored", update.stored, proof=proofs.get(update.stored.key)
        )
        [result] = await self.res.run(lambda conn: mark(conn, [proven]))
        if isinstance(result, ObjectRemoved):
            raise result

    async def _claim(self, email_id: int) -> Claim:
        await self.database.execute("UPDATE incoming_emails SET due_at = now() WHERE id = $1", email_id)
        number = await self.database.fetchval(
            "SELECT attempt_number FROM incoming_emails WHERE id = $1", email_id
        )
        request = ClaimRequest(Job(email_id, number + 1), "w", timedelta(hours=1))
        [claim] = await self.res.run(lambda conn: attempts.claim(conn, [request]))
        assert claim is not None
        return claim

    async def _put(self, each: Comment) -> objects.StoredObject:
        async def chunks() -> AsyncIterator[bytes]:
            yield each.content

        return await loose_objects.put(self.res, chunks(), None, self.here[each.number])

    async def _has_file(self, email_id: int) -> bool:
        query = "SELECT count(*) FROM attachments WHERE email_id = $1 AND status <> 'stored'"
        return bool(await self.database.fetchval(query, email_id))

    async def _unfinished(self) -> list[int]:
        return await self._with_status("received", "queued")

    async def _with_status(self, *statuses: str) -> list[int]:
        query = "SELECT id FROM incoming_emails WHERE processing_status = ANY ($1) ORDER BY id"
        return [row["id"] for row in await self.database.fetch(query, statuses)]

    async def _save_backup(self, numbers: set[int]) -> None:
        await self.database.execute(
            "CREATE TEMP TABLE IF NOT EXISTS backup AS SELECT * FROM incoming_emails WHERE false"
        )
        chosen = [self.here[number] for number in numbers]
        await self.database.execute(
            "INSERT INTO backup SELECT * FROM incoming_emails WHERE id = ANY ($1)"
            " AND id NOT IN (SELECT id FROM backup)",
            chosen,
        )

    def _comment_of(self, email_id: int) -> Comment:
        number = next(each for each, found in self.here.items() if found == email_id)
        return self.comments[number]

    def _is_held(self, number: int) -> bool:
        each, is_nameless = self.comments[number], number in self.nameless
        return any(hold.covers(each, is_nameless=is_nameless) for hold in self.holds.values())

    def _forget(self, numbers: set[int]) -> None:
        self.erased |= numbers
        for number in numbers:
            del self.here[number]
