"""Each alert is delivered once to every channel, whichever process is killed, and again if it comes back."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook

from service.alerts import record, watch
from service.alerts.channels import ChannelTest, channel_names, send_tests
from service.alerts.condition import Condition
from service.alerts.deliveries import Delivery
from service.alerts.message import compose
from service.alerts.send import deliver
from service.alerts.watch import look_once
from service.config.settings import Settings
from service.local.servers import free_port
from service.local.zendesk.stand_in import Zendesk
from service.postgres.alert_tables import CAUSES
from service.postgres.engine import connect
from service.queries.alerts import list_alerts
from service.resources import Resources, open_resources
from service.zendesk.signature import SECRETS_LATE, UNCERTAIN_SECONDS
from tests.conftest import Server, eventually, program, working
from tests.support.receivers import SECRET, MailServer, Receiver, mail_server, receiver, silent_server
from tests.support.rows import add_failed, add_quarantined, add_received
from tests.support.targets import synced_to

ARQ = ("arq", "service.worker.WorkerSettings")
CHANNELS = ("mail", "slack", "webhook")
Look = Callable[..., Awaitable[bool]]


@pytest.fixture
async def mails() -> AsyncIterator[MailServer]:
    async with mail_server() as server:
        yield server


@pytest.fixture
async def slack() -> AsyncIterator[Receiver]:
    async with receiver() as it:
        yield it


@pytest.fixture
async def webhook() -> AsyncIterator[Receiver]:
    async with receiver() as it:
        yield it


@pytest.fixture
def settings(settings: Settings, mails: MailServer, slack: Receiver, webhook: Receiver) -> Settings:
    """Set up all channels."""
    return settings.model_copy(
        update={
            "public_url": "https://holdfast.acme.example/",
            "alert_email_to": ("ops@acme.example",),
            "alert_email_from": "holdfast@acme.example",
            "smtp_url": SecretStr(f"smtp://127.0.0.1:{mails.port}"),
            "alert_slack_url": SecretStr(slack.url),
            "alert_webhook_url": SecretStr(webhook.url),
            "alert_webhook_secret": SecretStr(SECRET),
        }
    )


@pytest.fixture
def look(res: Resources, database: asyncpg.Connection) -> Look:
    """Return a function that takes a turn to look, as if `later` had passed since the last one."""

    async def look(later: str = "0 s", res: Resources = res) -> bool:
        await database.execute("UPDATE alert_watch SET next_at = now()")
        await database.execute("UPDATE alerts SET seen_at = seen_at - $1::text::interval", later)
        return await look_once(res)

    return look


async def send_all(res: Resources, *names: str) -> int:
    """Send due deliveries on these channels, or on all; return their number."""
    sent = 0
    for channel in names or CHANNELS:
        while await deliver(res, channel):
            sent += 1
    return sent


async def make_due(database: asyncpg.Connection) -> None:
    """Make postponed and leased deliveries due."""
    await database.execute("UPDATE alert_deliveries SET due_at = now() WHERE status = 'pending'")


async def complete_all(database: asyncpg.Connection) -> None:
    """Complete all failed e-mails, as a successful retry would."""
    await database.execute("UPDATE incoming_emails SET processing_status = 'completed'")


def subjects(mails: MailServer) -> list[str]:
    return [mail["Subject"] for mail in mails.mails]


GONE = "[Holdfast] E-mails fail with gone at a.example"
GONE_RESOLVED = "[Holdfast] Resolved: E-mails fail with gone at a.example"


async def test_every_channel_gets_condition_count_example_and_link(
    look: Look,
    res: Resources,
    database: asyncpg.Connection,
    mails: MailServer,
    slack: Receiver,
    webhook: Receiver,
) -> None:
    await add_failed(database, "1 hour")
    number = await add_failed(database, "1 hour")
    await look()

    assert await send_all(res) == 3

    text = mails.texts[0]
    assert subjects(mails) == [GONE]
    assert "2 e-mails of the last 24 hours failed with gone at a.example." in text
    assert f"https://holdfast.acme.example/emails/{number}\n" in text
    link = "https://holdfast.acme.example/emails?status=failed&error_code=gone&host=a.example"
    assert text.endswith(f"{link}\n")
    assert json.loads(slack.bodies[0])["text"].endswith(f"<{link}>")
    told = Webhook(SECRET).verify(webhook.bodies[0], webhook.requests[0])
    assert (told["type"], told["data"]["cause"], told["data"]["count"]) == ("alert.opened", "failures", 2)
    assert told["data"]["email_id"] == number


@pytest.mark.parametrize(
    ("key", "query"),
    [
        ("gone@a.example:8080", "error_code=gone&host=a.example%3A8080"),
        ("gone@", "error_code=gone&host=none"),
        ("@a.example", "error_code=none&host=a.example"),
        ("gone@*", "error_code=gone"),
        ("gone@<!x>&q=1\n@b", "error_code=gone&host=%3C%21x%3E%26q%3D1%0A%40b"),
    ],
)
def test_link_of_failures_filters_by_error_and_host(key: str, query: str) -> None:
    now = datetime.now(UTC)
    delivery = Delivery(1, "opened", "mail", 1, now, "failures", key, 1, "", "", None, now, None)

    link = compose(delivery, "https://holdfast.acme.example/").link

    assert link == f"https://holdfast.acme.example/emails?status=failed&{query}"


async def test_quarantine_alert_has_a_link_and_ends_after_the_replay(
    look: Look, res: Resources, database: asyncpg.Connection, mails: MailServer
) -> None:
    number = await add_quarantined(database, "not_json")
    await look()
    await send_all(res)
    await database.execute("UPDATE quarantined_webhooks SET replayed_at = now()")
    await look(later="6 min")
    await send_all(res)

    opened, resolved = mails.texts
    assert f"For example webhook {number} in quarantine." in " ".join(opened.split())
    assert opened.endswith("https://holdfast.acme.example/quarantine\n")
    assert "No webhook of the last 24 hours is still in quarantine with this error." in resolved


async def test_late_and_failed_syncs_are_one_alert_that_ends_after_the_sync(
    look: Look, settings: Settings, database: asyncpg.Connection, mails: MailServer
) -> None:
    away = {"sync_error_code": "receiver_away", "sync_error": "mongodb: cannot be reached"}
    number = await add_received(database, "1 hour", sync_status="pending", **away)
    await database.execute("UPDATE incoming_emails SET sync_begun_at = now() - interval '12 min'")
    async with open_resources(synced_to(settings)) as res:
        await look(res=res)
        await send_all(res)
        await database.execute("UPDATE incoming_emails SET sync_status = 'failed'")
        await look(res=res)
        more = await send_all(res)
        await database.execute("UPDATE incoming_emails SET sync_status = 'synced'")
        await look("6 minutes", res)
        await send_all(res)

    opened, resolved = mails.texts
    assert f"For example e-mail {number}: mongodb: cannot be reached (receiver_away)" in opened
    assert opened.endswith("https://holdfast.acme.example/\n")
    assert more == 0, "late and failed syncs are the same alert"
    assert "No sync waits too long any more" in resolved


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_has_a_text_for_its_end(cause: str) -> None:
    now = datetime.now(UTC)

    told = compose(
        Delivery(1, "resolved", "mail", 1, now, cause, "", 1, "It broke", "", None, now, now), None
    )

    assert told.title == "Resolved: It broke"
    assert "The problem is resolved." not in told.text, "this cause has no text of its own"


async def test_database_accepts_every_cause_of_the_code(
    settings: Settings, database: asyncpg.Connection
) -> None:
    """If the database refused one cause, no alert could be saved."""
    token = {"zendesk_oauth_client_id": None, "zendesk_oauth_token": SecretStr("fixed-token-of-the-tests")}
    async with open_resources(settings.model_copy(update=token)) as res:
        await look_once(res)
        [alert] = (await list_alerts(res.engine)).alerts
    for cause in CAUSES:
        await database.execute(
            "INSERT INTO alerts (cause, key, count, summary, detail) VALUES ($1, 'a', 1, 'b', 'c')", cause
        )

    assert alert.cause == "credentials"


async def test_an_open_alert_is_told_once_on_a_channel_that_was_set_up_since(
    look: Look, settings: Settings, database: asyncpg.Connection, mails: MailServer, slack: Receiver
) -> None:
    await add_failed(database, "1 hour")
    none = dict.fromkeys(("alert_email_to", "alert_slack_url", "alert_webhook_url"), None)
    async with open_resources(settings.model_copy(update={**none, "alert_email_to": ()})) as res:
        await look(res=res)
    only_mail = settings.model_copy(update={**none, "alert_email_to": settings.alert_email_to})
    async with open_resources(only_mail) as res:
        await look(res=res)
        told = await send_all(res)
        await look(res=res)
        again = await send_all(res)
        await complete_all(database)
        await look("6 min", res)
        await send_all(res)

    assert (told, again) == (1, 0)
    assert subjects(mails) == [GONE, GONE_RESOLVED]


async def test_more_of_the_same_raises_the_count_without_a_delivery(
    look: Look, res: Resources, database: asyncpg.Connection, mails: MailServer
) -> None:
    await add_failed(database, "1 hour")
    await look()
    await send_all(res)
    for _ in range(4):
        await add_failed(database, "1 minute")
    await look()

    assert await send_all(res) == 0
    [alert] = (await list_alerts(res.engine)).alerts
    assert (alert.count, alert.resolved_at) == (5, None)
    assert subjects(mails) == [GONE]


async def test_end_and_return_of_a_condition_are_delivered(
    look: Look, res: Resources, database: asyncpg.Connection, mails: MailServer
) -> None:
    await add_failed(database, "1 hour")
    await look()
    await send_all(res)
    await complete_all(database)
    await look("6 minutes")
    await send_all(res)
    await add_failed(database, "1 second")
    await look()
    await send_all(res)

    assert subjects(mails) == [GONE, GONE_RESOLVED, GONE]
    assert mails.mails[1]["In-Reply-To"] == mails.mails[0]["Message-ID"]
    assert mails.mails[2]["Message-ID"] != mails.mails[0]["Message-ID"]
    newest, before = (await list_alerts(res.engine)).alerts
    assert newest.resolved_at is None
    assert before.resolved_at is not None


async def test_recurring_alert_stays_open_longer_each_time(
    look: Look, res: Resources, database: asyncpg.Connection
) -> None:
    async def recur(later: str) -> int:
        await add_failed(database, "1 second")
        await look()
        await complete_all(database)
        await look(later)
        return sum(alert.resolved_at is None for alert in (await list_alerts(res.engine)).alerts)

    still_open = [await recur(later) for later in ("6 min", "6 min", "11 min", "11 min", "21 min")]

    assert still_open == [0, 1, 0, 1, 0]


async def test_several_processes_open_one_alert_and_deliver_it_once(
    look: Look, settings: Settings, res: Resources, database: asyncpg.Connection, mails: MailServer
) -> None:
    await add_failed(database, "1 hour")
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(open_resources(settings)) for _ in range(3)]
        looked = await asyncio.gather(*(look_once(each) for each in others for _ in range(3)))
        sent = await asyncio.gather(*(deliver(each, "mail") for each in others for _ in range(3)))

    assert (sum(looked), sum(sent)) == (1, 1)
    assert subjects(mails) == [GONE]


async def test_concurrent_turns_open_one_alert(res: Resources, database: asyncpg.Connection) -> None:
    async with connect(res.engine) as conn:
        turn = await record.begin(conn)
    assert turn

    async def note() -> list[str]:
        condition = Condition("waiting", "", 1, "summary", "detail")
        async with connect(res.engine) as conn:
            return await record.save_conditions(conn, turn, [condition], CHANNELS)

    opened = await asyncio.gather(*(note() for _ in range(8)))

    assert sorted(opened, reverse=True) == [["waiting"], *[[]] * 7]
    assert await database.fetchval("SELECT count(*) FROM alert_deliveries") == 3


async def test_paused_process_writes_nothing_after_another_took_a_turn(
    look: Look, res: Resources, database: asyncpg.Connection
) -> None:
    async with connect(res.engine) as conn:
        late = await record.begin(conn)
    assert late
    await look()
    async with connect(res.engine) as conn:
        opened = await record.save_conditions(conn, late, [Condition("waiting", "", 1, "", "")], CHANNELS)

    assert opened == []
    assert (await list_alerts(res.engine)).alerts == []


async def break_mail_server(mails: MailServer, way: str, stack: AsyncExitStack) -> int:
    """Break the mail server in some way; return the port to use."""
    if way == "hangs":
        return await stack.enter_async_context(silent_server())
    if way == "refuses connections":
        return free_port()
    mails.says["MAIL"] = way
    return mails.port


@pytest.mark.parametrize("way", ["refuses connections", "hangs", "451 later", "554 never"])
async def test_broken_mail_server_delays_no_other_channel_and_gets_its_mail_later(
    way: str,
    look: Look,
    settings: Settings,
    database: asyncpg.Connection,
    mails: MailServer,
    slack: Receiver,
    webhook: Receiver,
) -> None:
    await add_failed(database, "1 hour")
    await look()
    async with AsyncExitStack() as silence, AsyncExitStack() as stack:
        port = await break_mail_server(mails, way, silence)
        lost = settings.model_copy(update={"smtp_url": SecretStr(f"smtp://127.0.0.1:{port}")})
        res = await stack.enter_async_context(open_resources(lost))
        await stack.enter_async_context(watch.alerting(res))
        await eventually(lambda: told(slack, webhook))
        await eventually(lambda: noted(database))  # else they are sent once more
        await eventually(lambda: taken(database))
        await silence.aclose()  # another test covers the timeout
        await eventually(lambda: put_off(database))
    mails.says.clear()
    await make_due(database)
    async with open_resources(settings) as res, watch.alerting(res):
        await eventually(lambda: arrived(mails))

    assert (len(mails.mails), len(slack.bodies), len(webhook.bodies)) == (1, 1, 1)


async def told(*receivers: Receiver) -> bool:
    return all(each.bodies for each in receivers)


async def arrived(mails: MailServer) -> bool:
    return bool(mails.mails)


async def noted(database: asyncpg.Connection) -> bool:
    sent = "SELECT count(*) = 2 FROM alert_deliveries WHERE status = 'sent'"
    return bool(await database.fetchval(sent))


async def put_off(database: asyncpg.Connection) -> bool:
    waits = "SELECT count(*) FROM alert_deliveries WHERE channel = 'mail' AND error IS NOT NULL"
    return bool(await database.fetchval(waits))


async def test_jobs_continue_while_all_channels_are_down(
    settings: Settings, zendesk: Zendesk, client: Server, database: asyncpg.Connection, slack: Receiver
) -> None:
    slack.hangs = True
    await add_failed(database, "1 hour")
    await look_once(client.res)
    async with silent_server() as port:
        lost = settings.model_copy(update={"smtp_url": SecretStr(f"smtp://127.0.0.1:{port}")})
        async with working(lost):
            await eventually(lambda: taken(database))
            ends = [
                await client.until((await client.send(zendesk.payload()))["email_id"], "completed", "failed")
                for _ in range(5)
            ]

    assert [end["processing_status"] for end in ends] == ["completed"] * 5
    assert slack.bodies == []


async def taken(database: asyncpg.Connection) -> bool:
    return bool(
        await database.fetchval(
            "SELECT count(*) = 2 FROM alert_deliveries WHERE channel <> 'webhook' AND attempts > 0"
        )
    )


async def test_crash_between_send_and_record_sends_one_duplicate(
    look: Look,
    settings: Settings,
    res: Resources,
    database: asyncpg.Connection,
    mails: MailServer,
    tmp_path: Path,
) -> None:
    points = await asyncio.to_thread(armed, tmp_path / "points")
    only_mail = {"ALERT_SLACK_URL": "", "ALERT_WEBHOOK_URL": "", "FAULT_POINTS": str(points)}
    await add_failed(database, "1 hour")
    await look()
    await send_all(res, "slack", "webhook")
    async with program(*ARQ, settings=settings, **only_mail) as worker:
        await worker.wait()
    first = len(mails.mails)
    leased = await send_all(res)
    await make_due(database)
    async with program(*ARQ, settings=settings):
        await eventually(lambda: all_sent(database))

    assert (first, leased) == (1, 0)
    assert [mail["Message-ID"] for mail in mails.mails] == [mails.mails[0]["Message-ID"]] * 2


def armed(points: Path) -> Path:
    points.mkdir()
    (points / "after_alert_sent").write_text("kill")
    return points


async def all_sent(database: asyncpg.Connection) -> bool:
    return bool(await database.fetchval("SELECT bool_and(status = 'sent') FROM alert_deliveries"))


async def test_end_of_an_alert_is_delivered_after_its_begin(
    look: Look, res: Resources, database: asyncpg.Connection, mails: MailServer
) -> None:
    mails.says["MAIL"] = "451 later"
    await add_failed(database, "1 hour")
    await look()
    await send_all(res, "mail")
    await complete_all(database)
    await look("6 minutes")
    nothing = await deliver(res, "mail")
    mails.says.clear()
    await make_due(database)
    await send_all(res, "mail")

    assert nothing is False
    assert subjects(mails) == [GONE, GONE_RESOLVED]


async def test_delivery_is_given_up_after_a_day_and_shows_its_error(
    look: Look, res: Resources, database: asyncpg.Connection, slack: Receiver
) -> None:
    slack.status = 500
    await add_failed(database, "1 hour")
    await look()
    await send_all(res, "slack")
    await database.execute("UPDATE alert_deliveries SET created_at = now() - interval '25 hours'")
    await look()

    [alert] = (await list_alerts(res.engine)).alerts
    [given_up] = [each for each in alert.deliveries if each.channel == "slack"]
    assert (given_up.status, given_up.attempts) == ("failed", 1)
    assert given_up.error == "receiver_busy: answered 500"


async def test_backoff_doubles_and_retry_after_is_respected(
    look: Look, res: Resources, database: asyncpg.Connection, slack: Receiver
) -> None:
    async def paused() -> float:
        await make_due(database)
        await deliver(res, "slack")
        pause = "SELECT extract(epoch FROM due_at - now()) FROM alert_deliveries WHERE channel = 'slack'"
        return float(await database.fetchval(pause))

    slack.status = 500
    await add_failed(database, "1 hour")
    await look()
    pauses = [await paused() for _ in range(3)]
    slack.status, slack.headers = 429, {"Retry-After": "300"}
    asked = await paused()

    assert 0 < pauses[0] <= 15 < pauses[1] <= 30 < pauses[2] <= 60
    assert 60 < asked <= 300


async def test_alerts_are_saved_without_any_channel(settings: Settings, database: asyncpg.Connection) -> None:
    off: dict[str, Any] = {"alert_email_to": (), "alert_slack_url": None, "alert_webhook_url": None}
    await add_failed(database, "1 hour")
    async with open_resources(settings.model_copy(update=off)) as res:
        await look_once(res)
        [alert] = (await list_alerts(res.engine)).alerts

    assert channel_names(res.settings) == []
    assert (alert.cause, alert.key, [*alert.deliveries]) == ("failures", "gone@a.example", [])


async def test_text_without_public_url_says_what_to_set(
    look: Look, settings: Settings, database: asyncpg.Connection, mails: MailServer
) -> None:
    await add_failed(database, "1 hour")
    await look()
    async with open_resources(settings.model_copy(update={"public_url": None})) as res:
        await deliver(res, "mail")

    text = mails.texts[0]
    assert text.endswith("(Set PUBLIC_URL to get links here.)\n")
    assert "://" not in text


async def test_bad_signatures_in_a_row_are_saved_by_the_watch_and_not_by_requests(
    look: Look, client: Server, res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    web = client.res

    async def bad() -> None:
        async with client.session.post(client.webhook, json={}) as answer:
            assert answer.status == 401

    for _ in range(4):
        await bad()
    await watch.record_bad_signatures(web)
    few = await database.fetchval("SELECT count(*) FROM alert_watch")
    await bad()
    before = await database.fetchval("SELECT count(*) FROM alert_watch")
    await watch.record_bad_signatures(web)
    await look(res=web)
    [alert] = (await list_alerts(res.engine)).alerts
    await client.send(zendesk.payload())
    await look("6 minutes", res=web)
    [resolved] = (await list_alerts(res.engine)).alerts

    assert (few, before) == (0, 0)
    assert (alert.cause, alert.count, alert.resolved_at) == ("signatures", 5, None)
    assert resolved.resolved_at is not None
    assert web.bad_signatures.length == 0


async def test_signatures_that_nobody_can_tell_cause_an_alert_once_that_lasts(
    look: Look, client: Server, res: Resources, database: asyncpg.Connection
) -> None:
    """Many webhooks may come in the moments after a start, before the secrets are known."""
    web = client.res
    for _ in range(50):
        web.bad_signatures.bad(SECRETS_LATE, is_certain=False)
    await watch.record_bad_signatures(web)
    soon = await database.fetchval("SELECT count(*) FROM alert_watch")
    web.bad_signatures.first -= UNCERTAIN_SECONDS
    await watch.record_bad_signatures(web)
    await look(res=web)
    [alert] = (await list_alerts(res.engine)).alerts

    assert soon == 0
    assert (alert.cause, alert.count) == ("signatures", 50)
    assert "`holdfast check` tells why" in alert.detail


async def test_strangers_cause_an_alert_while_nobody_can_tell_most_signatures(
    client: Server, database: asyncpg.Connection
) -> None:
    """Zendesk is asked once a minute: then one of theirs is wrong for certain."""
    streak = client.res.bad_signatures
    for is_certain in (False, False, True, False, False):
        streak.bad("signature_mismatch" if is_certain else SECRETS_LATE, is_certain=is_certain)
    await watch.record_bad_signatures(client.res)

    row = await database.fetchrow("SELECT bad_signatures, bad_signature_code FROM alert_watch")
    assert row is not None
    assert tuple(row) == (5, "signature_mismatch")


async def test_valid_signature_resets_the_count_of_bad_ones(
    client: Server, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    for _ in range(3):
        for _ in range(4):
            async with client.session.post(client.webhook, json={}) as answer:
                assert answer.status == 401
        await client.send(zendesk.payload())
    await watch.record_bad_signatures(client.res)

    assert await database.fetchval("SELECT count(*) FROM alert_watch WHERE bad_signatures > 0") == 0


async def test_test_message_reports_the_result_of_each_channel(
    settings: Settings, mails: MailServer, slack: Receiver, webhook: Receiver
) -> None:
    slack.status = 404
    tried = await send_tests(settings)

    assert tried == [
        ChannelTest("mail", None),
        ChannelTest(
            "slack",
            "receiver_refused: answered 404: check the address, and the documentation of the receiver",
        ),
        ChannelTest("webhook", None),
    ]
    assert subjects(mails) == ["[Holdfast] Test of the alerts"]
    assert json.loads(webhook.bodies[0])["type"] == "alert.test"


async def test_open_alerts_come_first_in_lists(
    look: Look, res: Resources, database: asyncpg.Connection
) -> None:
    for place, resolved in enumerate(("NULL", "now()", "now()", "NULL")):
        await database.execute(
            "INSERT INTO alerts (cause, key, count, summary, detail, resolved_at)"
            f" VALUES ('failures', '{place}', 1, '', '', {resolved})"
        )

    assert [alert.key for alert in (await list_alerts(res.engine)).alerts] == ["3", "0", "2", "1"]
    assert [alert.key for alert in (await list_alerts(res.engine, limit=3)).alerts] == ["3", "0", "2"]


async def test_worker_process_finds_and_delivers_alerts(
    settings: Settings, database: asyncpg.Connection, mails: MailServer, slack: Receiver, webhook: Receiver
) -> None:
    await add_failed(database, "1 hour")
    async with program(*ARQ, settings=settings), program(*ARQ, settings=settings, WORKER_NAME="second"):
        await eventually(lambda: arrived(mails))
        await eventually(lambda: told(slack, webhook))
        await eventually(lambda: all_sent(database))

    assert (len(mails.mails), len(slack.bodies), len(webhook.bodies)) == (1, 1, 1)
