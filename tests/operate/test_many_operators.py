"""Many people and processes act on the same webhooks at once: each webhook is one e-mail, with a body of its own."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import asyncpg
import pytest
from multidict import CIMultiDict

from service import intake
from service.custody import erasure
from service.custody.scopes import scope_of
from service.errors import HoldfastError, Rejected
from service.jobs import discovery, identity
from service.jobs.discovery import BACKFILL, Discovery
from service.operate import bulk_retry, bulk_webhooks
from service.operate.correct import correct
from service.operate.dismiss import dismiss_webhook, undismiss_webhook
from service.operate.replay import What, replay_webhook
from service.postgres.selection import WebhookSelection, WebhookTask
from service.resources import Resources
from service.zendesk.signature import ACCOUNT_ID, INVOCATION_ID
from tests.conftest import EMPTY
from tests.support.examples import examples
from tests.support.rows import add

pytestmark = pytest.mark.long

ACCOUNT = "21978514"
ROUNDS = examples(4)
TICKETS = 4
KINDS = ("plain", "broken", "comment", "ignored")
ERASED_TICKET = "4"

Act = Callable[[], Awaitable[object]]


@dataclass
class Webhook:
    """A webhook in quarantine, or an ignored one; each body that it may have names it in its subject."""

    id: int
    what: What
    ticket: str
    comment: str | None
    body: bytes
    headers: CIMultiDict[str]
    signature: bytes
    corrections: list[bytes] = field(default_factory=list)

    @property
    def bodies(self) -> list[bytes]:
        return [self.body, *self.corrections]


class World:
    """Webhooks, and all that may be done to them."""

    def __init__(self, res: Resources, database: asyncpg.Connection, seed: int) -> None:
        self.res, self.database, self.random = res, database, random.Random(seed)
        self.webhooks: list[Webhook] = []
        self.comments: list[tuple[str, str]] = []

    async def fill(self) -> None:
        await self.database.execute(EMPTY)
        for number in range(4 * TICKETS):
            pair = number // 2
            kind = KINDS[(number + pair // TICKETS) % len(KINDS)]
            comment = f"{900_000 + pair}" if kind == "comment" or pair % 3 == 0 else None
            await self.add(number, str(pair % TICKETS + 1), comment, kind)

    async def add(self, number: int, ticket: str, comment: str | None, kind: str) -> None:
        def body(variant: str) -> bytes:
            told = {"ticket_id": ticket, "comment_id": comment, "subject": f"webhook {number} {variant}"}
            # Pairs share a key, as those of a wrong template do.
            return json.dumps({**told, "webhook_id": f"key {number // 2}"}).encode()

        original = body("original")
        if kind == "broken":
            original = original.replace(b'"subject"', b'"subject', 1)
        name = f"invocation {number}"
        headers = CIMultiDict({ACCOUNT_ID: ACCOUNT, INVOCATION_ID: name})
        signature = f"signature {number}".encode().ljust(32)
        row: dict[str, Any] = {
            "idempotency_key": f"kept {number}",
            "account_id": ACCOUNT,
            "invocation_id": name,
            "raw_body": original,
            "raw_headers": json.dumps([*headers.items()]),
            "signature_hash": signature,
        }
        if kind == "ignored":
            webhook_id = await add(self.database, "ignored_webhooks", event_type="x", **row)
        else:
            reason = {"error_code": "not_json" if kind == "broken" else "key_reused", "error": "No."}
            webhook_id = await add(self.database, "quarantined_webhooks", **row, **reason)
        what: What = "ignored" if kind == "ignored" else "quarantined"
        made = Webhook(webhook_id, what, ticket, comment, original, headers, signature)
        if kind != "ignored":
            made.corrections = [body("corrected by ann"), body("corrected by bob")]
        self.webhooks.append(made)
        if comment is not None:
            self.comments.append((ticket, comment))

    def acts(self) -> list[Act]:
        acts: list[Act] = []
        for each in self.webhooks:
            acts += [partial(replay_webhook, self.res, each.id, "ann", each.what)] * 3
            if each.what == "quarantined":
                acts += [
                    partial(correct, self.res, each.id, name, body)
                    for name, body in zip(("ann", "bob"), each.corrections, strict=True)
                ]
                acts += [
                    partial(dismiss_webhook, self.res, each.id, "ann", "No."),
                    partial(undismiss_webhook, self.res, each.id, "bob"),
                ]
            if not each.corrections:
                acts.append(
                    partial(intake.accept, self.res, each.headers, each.body, signature_hash=each.signature)
                )
        for ticket, comment in self.comments:
            acts += [partial(self.announce, ticket, comment), partial(self.discover, ticket, comment)]
        acts += [self.replay_all] * 2 + [self.identify, self.resolve] * 4 + [self.erase] + [self.kill] * 3
        self.random.shuffle(acts)
        return acts

    async def announce(self, ticket: str, comment: str) -> None:
        """Deliver another webhook about a comment."""
        told = {"ticket_id": ticket, "comment_id": comment, "subject": f"announced {comment}"}
        headers = CIMultiDict({ACCOUNT_ID: ACCOUNT, INVOCATION_ID: f"another {comment}"})
        await intake.accept(
            self.res, headers, json.dumps(told).encode(), signature_hash=comment.encode().ljust(32)
        )

    async def discover(self, ticket: str, comment: str) -> None:
        found = [Discovery(ticket, comment, None)]
        await self.res.run(
            partial(
                discovery.add, account_id=ACCOUNT, found=found, origin=BACKFILL, sync_status="not_applicable"
            )
        )

    async def replay_all(self) -> None:
        await bulk_webhooks.start(self.res, WebhookSelection(), 100, "ann", WebhookTask("replay"))
        while await bulk_retry.step(self.res):
            pass

    async def identify(self) -> None:
        await self.res.run(lambda conn: identity.identify(conn, 0, 100))

    async def resolve(self) -> None:
        """Give an e-mail a comment that another one may be, as a look-up does."""
        email_id = await self.random_email()
        if email_id is not None:
            ticket, comment = self.random.choice(self.comments)
            is_of_ticket = (
                "SELECT comment_id IS NULL AND zendesk_ticket_id = $2 FROM incoming_emails WHERE id = $1"
            )
            async with asyncio.timeout(60), LOCK:
                is_fit = await self.database.fetchval(is_of_ticket, email_id, ticket)
            if is_fit:
                await self.res.run(lambda conn: identity.resolve(conn, email_id, comment))

    async def random_email(self) -> int | None:
        async with LOCK:
            rows = await self.database.fetch("SELECT id FROM incoming_emails ORDER BY id")
        return self.random.choice(rows)["id"] if rows else None

    async def erase(self) -> None:
        scope = scope_of({"ticket": ERASED_TICKET})
        erasure_id = await erasure.start(self.res, scope, "Asked for.", "ann")
        with suppress(HoldfastError):
            await erasure.run(self.res, erasure_id)

    async def kill(self) -> None:
        """End a session at whatever it does."""
        async with LOCK:
            await self.database.execute(
                "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity"
                " WHERE application_name LIKE 'holdfast%' AND state <> 'idle' ORDER BY random() LIMIT 1) AS one"
            )

    async def run(self) -> None:
        """Do everything at once; some of it is cancelled."""

        async def one(act: Act) -> None:
            await asyncio.sleep(self.random.random() / 4)
            with suppress(HoldfastError):
                await act()

        tasks = [asyncio.create_task(one(act)) for act in self.acts()]
        for task in self.random.sample(tasks, len(tasks) // 10):
            asyncio.get_running_loop().call_later(self.random.random() / 2, task.cancel)
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def settle(self) -> None:
        """Finish what was begun, as its repetition does."""
        for row in await self.database.fetch("SELECT id FROM erasures WHERE status = 'running'"):
            await self.database.execute("UPDATE erasures SET next_at = now()")
            assert (await erasure.run(self.res, row["id"])).status == "done"
        for each in self.webhooks:
            with suppress(Rejected):
                await replay_webhook(self.res, each.id, "ann", each.what)
        await self.identify()

    async def check(self) -> None:
        has_erased = await self.database.fetchval("SELECT EXISTS (SELECT FROM erasures)")
        emails = {row["id"]: row for row in await self.database.fetch("SELECT * FROM incoming_emails")}
        requests = [
            *((row["id"], bytes(row["raw_body"])) for row in emails.values() if row["raw_body"]),
            *(
                (row["email_id"], bytes(row["raw_body"]))
                for row in await self.database.fetch("SELECT email_id, raw_body FROM announcements")
            ),
        ]
        for each in self.webhooks:
            mine = [(email_id, body) for email_id, body in requests if body in each.bodies]
            if each.ticket == ERASED_TICKET and has_erased:
                assert mine == []
                continue
            await self.check_webhook(each, mine, emails)
        for email in emails.values():
            if email["raw_body"]:
                assert email["subject"] == json.loads(email["raw_body"])["subject"]
        comments = [
            (row["zendesk_ticket_id"], row["comment_id"]) for row in emails.values() if row["comment_id"]
        ]
        assert len(comments) == len({*comments})

    async def check_webhook(
        self, each: Webhook, mine: list[tuple[int, bytes]], emails: dict[int, asyncpg.Record]
    ) -> None:
        table = f"{each.what}_webhooks"
        row = await self.database.fetchrow(f"SELECT * FROM {table} WHERE id = $1", each.id)
        if row["replayed_at"] is None:
            assert mine == []
            return
        assert [email_id for email_id, _ in mine] == [row["email_id"]], each
        assert row["email_id"] in emails
        if each.what == "quarantined":
            chosen = await self.database.fetchval(
                "SELECT body FROM quarantine_corrections WHERE quarantine_id = $1 AND error_code IS NULL",
                each.id,
            )
            assert mine[0][1] == (each.body if chosen is None else chosen)
            acts = await self.database.fetch(
                "SELECT action FROM operator_actions WHERE quarantine_id = $1 AND action IN ('replay', 'correct')"
                " AND email_id IS NOT NULL",
                each.id,
            )
            assert [act["action"] for act in acts] == ["replay" if chosen is None else "correct"]


LOCK = asyncio.Lock()  # of the connection of the test


@pytest.mark.timeout(60 * ROUNDS)
async def test_each_webhook_is_one_email(res: Resources, database: asyncpg.Connection) -> None:
    for seed in range(ROUNDS):
        world = World(res, database, seed)
        await world.fill()

        await world.run()
        await world.settle()

        await world.check()
