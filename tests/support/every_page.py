"""Every page of the dashboard, and rows whose values are as long and as hostile as strangers can make them."""

import json
import re
from collections.abc import Sequence
from datetime import timedelta

import asyncpg

from service.config.settings import Settings
from service.web.app import PAGES
from tests.support.pages import HOSTILE
from tests.support.rows import (
    add,
    add_failed,
    add_findings,
    add_many_failed,
    add_quarantined,
    add_quarantined_body,
    add_reconciliation,
)
from tests.support.source import account_key, add_source, keep, list_comment, noon, say, suspend, today

# Without a space, so that a line breaks inside of it or nowhere.
LONG = "W" * 180
ADDRESS = f"{'a' * 64}@{'b' * 120}.example"
CODE = f"long_{'code_' * 16}end"
NUMBER = "9" * 60
TYPE = f"application/vnd.{'long-' * 20}type"
TICKET = NUMBER
ACTOR = f"{LONG} (dashboard)"
# Pages whose query changes what they show.
VIEWS = (
    "/emails/1?view=text",
    "/emails/4",
    "/emails?q=WWWWWW&status=failed&received_after=2020-01-01T00:00&limit=5",
    "/emails?status=wrong",
    "/quarantine?dismissed=true",
    "/quarantine/2",
    "/quarantine/4",
    "/quarantine/4/edit",
    f"/quarantine?error_code={CODE}",
    f"/quarantine/plan?action=dismiss&error_code={CODE}",
    "/retries/4",
    "/retries/plan?action=dismiss&ids=1,2,3",
    f"/failures/acknowledge?error_code={CODE}0&host={LONG}.example",
    "/complete?day={today}&list=in_zendesk",
    "/retention?simulate=1",
    f"/retention/plan?action=remove&name={'n' * 64}",
    "/login?code=BCDF-GHJK",
    "/login?code=unknown",
    "/nothing",
)
# Answers that are no pages.
_NO_PAGES = re.compile(r"^/(?:static|live|openapi)|\.html$|/preview$")


def paths() -> Sequence[str]:
    """Return the path of every page that the router knows; each number in it is 1."""
    found = [route.path for route in PAGES if route.method == "GET" and not _NO_PAGES.search(route.path)]
    return [re.sub(r"\{\w+\}", "1", path) for path in found]


async def fill(database: asyncpg.Connection, settings: Settings) -> None:
    """Insert what the pages show, with long values wherever a stranger or a person chooses them."""
    await _emails(database)
    await _quarantine(database)
    await _operations(database)
    await _custody(database)
    await _source(database, account_key(settings))


async def _emails(database: asyncpg.Connection) -> None:
    now = await database.fetchval("SELECT now()")
    own = {"zendesk_ticket_id": TICKET, "account_id": "1", "received_at": now, "started_at": now}
    own |= {"subject": f"{LONG}{HOSTILE}", "from_email": ADDRESS, "from_name": LONG, "attempt_number": 2}
    error = {"processing_error": f"{LONG} at https://{LONG}.example/{LONG}", "error_code": CODE}
    synced = {"sync_status": "failed", "sync_error_code": CODE, "sync_error": LONG, "completed_at": now}
    failed = {**own, **error, **synced, "processing_status": "failed", "error_host": f"{LONG}.example"}
    done = {**own, **synced, "processing_status": "completed", "raw_headers": json.dumps([[LONG, LONG]])}
    await add(database, **failed, raw_body=json.dumps({LONG: [LONG]}).encode(), raw_headers="[]", late=True)
    await add(
        database, **done, raw_body=LONG.encode(), zendesk_state="permanently_deleted", zendesk_state_at=now
    )
    await add(
        database, **failed, dismissed_at=now, dismissed_by=ACTOR, dismiss_reason=LONG, dismissed_attempt=2
    )
    await add(
        database, **{**own, "processing_status": "processing", "lease_until": now + timedelta(seconds=9)}
    )
    for email_id in (1, 2):
        people = json.dumps([{"name": LONG, "address": ADDRESS}] * 3)
        await say(
            database,
            email_id,
            str(email_id),
            from_name=LONG,
            from_address=ADDRESS,
            to=people,
            cc=people,
            public=False,
            text=f"{LONG}\nhttps://{LONG}.example/{LONG}",
            has_html=email_id == 1,
            direction="outbound",
        )
        await _files(database, email_id)
        await add(
            database,
            "announcements",
            email_id=email_id,
            idempotency_key=str(email_id),
            invocation_id=NUMBER,
            raw_body=b"",
            raw_headers="[]",
            late=True,
        )
        for number, outcome in enumerate(("released", "failed"), 1):
            about = {
                "worker": LONG,
                "outcome": outcome,
                "error_code": CODE,
                "error": LONG,
                "finished_at": now,
            }
            await add(database, "attempts", email_id=email_id, number=number, **about)
    for number in range(9):
        await add_failed(database, "1 hour", f"{CODE}{number}", f"{LONG}.example")
    await add_many_failed(database, 6, subject=LONG, from_email=ADDRESS)


async def _files(database: asyncpg.Connection, email_id: int) -> None:
    about = {"email_id": email_id, "source_url": f"https://{LONG}", "file_name": f"{LONG}.pdf"}
    stored = {"sha256": "0" * 64, "size": 9, "object_key": "k", "detected_type": "application/pdf"}
    failed = {"error_code": CODE, "error": LONG, "malware": "malware_found", "declared_type": TYPE}
    await add(database, "attachments", position=0, status="stored", **about, **stored)
    await add(database, "attachments", position=1, status="failed", declared_size=10**12, **about, **failed)


async def _quarantine(database: asyncpg.Connection) -> None:
    now = await database.fetchval("SELECT now()")
    await add_quarantined_body(
        database, json.dumps({LONG: LONG}).encode(), error_code=CODE, error=LONG, invocation_id=NUMBER
    )
    await add_quarantined(database, CODE, replayed_at=now, email_id=1, reused_key="1")
    for error_code in (CODE, None):
        correction = {"quarantine_id": 1, "corrected_by": ACTOR, "body": LONG.encode()}
        await add(database, "quarantine_corrections", **correction, error_code=error_code)
    await add_quarantined(
        database, "not_json", raw_body=f'{{"ticket_id": {NUMBER[:20]}, "subject": "{LONG}'.encode()
    )
    await add_quarantined(
        database, CODE, dismissed_at=now, dismissed_by=ACTOR, dismiss_reason=LONG, error=LONG
    )


async def _custody(database: asyncpg.Connection) -> None:
    """Insert a hold named 1, a released one, a rule, and an erasure with its receipt."""
    now = await database.fetchval("SELECT now()")
    chosen = json.dumps({"ticket": TICKET, "sender": ADDRESS})
    held = {"reason": LONG, "filter": chosen, "set_by": ACTOR}
    await add(database, "holds", name="1", **held)
    released = {"released_at": now, "released_by": ACTOR, "release_reason": LONG}
    await add(database, "holds", name="n" * 64, **held, **released)
    await database.execute("INSERT INTO held_emails (email_id, hold_id) VALUES (1, 1)")
    rule = {"filter": chosen, "keep_days": 3_650, "created_by": ACTOR}
    await add(database, "retention_rules", position=1, name="n" * 64, **rule)
    about = {"actor": ACTOR, "reason": LONG, "emails": 10**9, "bytes": 10**15, "digest": "0" * 64}
    await add(database, "receipts", kind="erasure", status="done", ended_at=now, **about)
    await add(database, "receipts", kind="purge", actor=ACTOR, rules=json.dumps({"n" * 64: 10**9}))
    last = dict.fromkeys(("last_email", "last_quarantined", "last_ignored"), 0)
    scope = {"scope": "sender", "subject": ADDRESS, "held_by": ["n" * 64]}
    await add(database, "erasures", receipt_id=1, actor=ACTOR, **scope, **last)


async def _operations(database: asyncpg.Connection) -> None:
    now = await database.fetchval("SELECT now()")
    login = {"name": LONG, "role": "operator", "confirmed_at": now, "confirmed_by": ACTOR, "used_at": now}
    for number, over in enumerate(({}, {"revoked_at": now, "revoked_by": ACTOR})):
        ends_at = now + timedelta(days=90)
        await add(database, "logins", secret_hash=bytes([number]), **login, ends_at=ends_at, **over)
    await add(database, "logins", name=LONG, secret_hash=b"waiting", user_code="BCDFGHJK")
    chosen = json.dumps({"status": "failed", "error_code": CODE, "q": LONG})
    bulk = {"actor": ACTOR, "filter": chosen, "per_second": 20, "planned": 9, "planned_capped": True}
    over = {"status": "done", "retried": 9, "finished_at": now, "settled_at": now}
    await add(database, "bulk_retries", **bulk, **over, repaired=3, failed_again=5, superseded=1)
    await add(database, "bulk_retries", **bulk, retried=4, repaired=1)
    await add(database, "bulk_retries", **bulk, **over, action="dismiss", reason=LONG)
    webhooks = json.dumps({"replayed": False, "error_code": CODE})
    replays = {**bulk, **over, "filter": webhooks, "failed_again": 4}
    await add(database, "bulk_retries", **replays, what="webhook", action="replay")
    await add(database, "saved_filters", name=LONG[:60], filter=chosen, saved_by=ACTOR)
    group = {"error_code": f"{CODE}0", "host": f"{LONG}.example"}
    await add(database, "acknowledgements", **group, by=ACTOR, note=LONG)
    for values in (
        {"action": "retry", "email_id": 1, "bulk_retry_id": 1, "outcome": "failed_again"},
        {"action": "dismiss", "email_id": 1, "reason": LONG},
        {"action": "replay", "quarantine_id": 1},
    ):
        await add(database, "operator_actions", actor=ACTOR, **values)
    counts = {"missing": 3, "different": 2, "object_missing": 1}
    run_id = await add_reconciliation(
        database, actor=ACTOR, counts=counts, repaired={"missing": 1}, emails=10**9
    )
    await add_findings(database, run_id, "missing", "different", "object_missing")
    await database.execute(
        "UPDATE reconciliation_findings SET key = key || $1, email_id = 1, repair = CASE WHEN id = 2 THEN $1 END,"
        " detail = json_build_object('fields', ARRAY[$1::text], 'reason', $1::text)",
        LONG,
    )
    await add_reconciliation(
        database, actor=ACTOR, kind="verify", error_code=CODE, error=LONG, status="failed"
    )
    for cause, resolved_at in (("no_worker", None), ("silence", None), ("drift", now)):
        about = {
            "key": LONG,
            "count": 9,
            "summary": f"{cause} {LONG}",
            "detail": f"`{LONG}` {LONG}",
            "email_id": 1,
        }
        alert_id = await add(database, "alerts", cause=cause, resolved_at=resolved_at, **about)
        for channel, status, sent_at in (
            ("mail", "sent", now),
            ("slack", "failed", None),
            ("webhook", "pending", None),
        ):
            delivery = {
                "channel": channel,
                "status": status,
                "sent_at": sent_at,
                "attempts": 3,
                "error": LONG,
            }
            await add(database, "alert_deliveries", alert_id=alert_id, news="opened", **delivery)
    await add(database, "workers", name=LONG, pid=2_000_000_000, version="1", jobs=1000)


async def _source(database: asyncpg.Connection, account: str) -> None:
    at = noon(await today(database))
    await add_source(database, account, leg="lists", leg_reason="forbidden", error_code=CODE, error=LONG)
    for number in range(1, 5):
        await list_comment(database, account, TICKET, f"{number}{NUMBER}", at)
    await keep(database, TICKET, f"1{NUMBER}", "failed", subject=LONG, from_email=ADDRESS, error_code=CODE)
    await keep(database, TICKET, f"2{NUMBER}", origin="backfill", subject=LONG, from_email=ADDRESS)
    names = dict.fromkeys(("subject", "from_name", "cause"), LONG)
    await suspend(database, account, 1, text=LONG, from_address=ADDRESS, created_at=at, **names)
    drift = json.dumps([{"code": "trigger_changed", "text": f"The trigger {LONG} changed"}])
    connection = {"account": account, "endpoint": "https://x.example", "webhook_id": "w", "trigger_id": "t"}
    await add(database, "connections", **connection, condition="mail", drift=drift)
