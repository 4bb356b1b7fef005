"""Each thing that is the matter is told once to every channel, whatever is killed, and again when it came back."""

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
from service.postgres.engine import connect
from service.postgres.operation_tables import CAUSES
from service.queries.alerts import list_alerts
from service.resources import Resources, open_resources
from tests.alerts.test_channels import SECRET
from tests.conftest import Server, eventually, program, working
from tests.support.receivers import MailServer, Receiver, mail_server, receiver, silent_server
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
    """Look once more, as if it were time and `later` had passed since what was seen was seen."""

    async def look(later: str = "0 s", res: Resources = res) -> bool:
        await database.execute("UPDATE alert_watch SET next_at = now()")
        await database.execute("UPDATE alerts SET seen_at = seen_at - $1::text::interval", later)
        return await look_once(res)

    return look


async def send_all(res: Resources, *names: str) -> int:
    """Send what is due on these channels, or on all; return how many there were."""
    sent = 0
    for channel in names or CHANNELS:
        while await deliver(res, channel):
            sent += 1
    return sent


async def soon(database: asyncpg.Connection) -> None:
    """Let the time pass until what was put off or leased is due."""
    await database.execute("UPDATE alert_deliveries SET due_at = now() WHERE status = 'pending'")


async def retry_all(database: asyncpg.Connection) -> None:
    """Let somebody run again what failed, with success."""
    await database.execute("UPDATE incoming_emails SET processing_status = 'completed'")


def subjects(mails: MailServer) -> list[str]:
    return [mail["Subject"] for mail in mails.mails]


GONE = "[Holdfast] E-mails fail with gone at a.example"
GONE_IS_OVER = "[Holdfast] Over: E-mails fail with gone at a.example"


async def test_every_channel_tells_what_happened_how_often_an_example_and_a_link(
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
    assert "2 e-mails of the last 24 hours failed for good with gone at a.example." in text
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
def test_the_link_of_failures_leads_to_just_these(key: str, query: str) -> None:
    now = datetime.now(UTC)
    delivery = Delivery(1, "opened", "mail", 1, now, "failures", key, 1, "", "", None, now, None)

    link = compose(delivery, "https://holdfast.acme.example/").link

    assert link == f"https://holdfast.acme.example/emails?status=failed&{query}"


async def test_what_waits_in_quarantine_is_told_with_a_link_and_is_over_once_it_was_replayed(
    look: Look, res: Resources, database: asyncpg.Connection, mails: MailServer
) -> None:
    number = await add_quarantined(database, "not_json")
    await look()
    await send_all(res)
    await database.execute("UPDATE quarantined_webhooks SET replayed_at = now()")
    await look(later="6 min")
    await send_all(res)

    opened, over = mails.texts
    assert f"For example webhook {number} in quarantine." in " ".join(opened.split())
    assert opened.endswith("https://holdfast.acme.example/quarantine\n")
    assert "No webhook of the last 24 hours waits in quarantine for this reason." in over


async def test_what_is_not_synced_is_one_alert_and_over_by_itself_once_it_is(
    look: Look, settings: Settings, database: asyncpg.Connection, mails: MailServer
) -> None:
    away = {"sync_error_code": "receiver_away", "sync_error": "mongodb: it cannot be reached"}
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

    opened, over = mails.texts
    assert f"For example e-mail {number}: mongodb: it cannot be reached (receiver_away)" in opened
    assert opened.endswith("https://holdfast.acme.example/\n")
    assert more == 0, "it is the same alert, however the sync stands"
    assert "No finished e-mail waits for so long any more" in over


@pytest.mark.parametrize("cause", CAUSES)
def test_of_every_cause_it_can_be_told_that_it_is_over(cause: str) -> None:
    now = datetime.now(UTC)

    told = compose(
        Delivery(1, "resolved", "mail", 1, now, cause, "", 1, "It broke", "", None, now, now), None
    )

    assert told.title == "Over: It broke"
    assert "It is over." not in told.text, "there are better words"


async def test_every_cause_that_the_code_finds_can_be_recorded(
    settings: Settings, database: asyncpg.Connection
) -> None:
    """A cause that the database refuses would keep all other alerts off the record, too."""
    token = {"zendesk_oauth_client_id": None, "zendesk_oauth_token": SecretStr("fixed-token-of-the-tests")}
    async with open_resources(settings.model_copy(update=token)) as res:
        await look_once(res)
        [alert] = (await list_alerts(res.engine)).alerts
    for cause in CAUSES:
        await database.execute(
            "INSERT INTO alerts (cause, key, count, summary, detail) VALUES ($1, 'a', 1, 'b', 'c')", cause
        )

    assert alert.cause == "credentials"


async def test_more_of_the_same_raise_the_count_and_tell_nobody(
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


async def test_what_is_over_is_told_and_what_comes_back_is_told_again(
    look: Look, res: Resources, database: asyncpg.Connection, mails: MailServer
) -> None:
    await add_failed(database, "1 hour")
    await look()
    await send_all(res)
    await retry_all(database)
    await look("6 minutes")
    await send_all(res)
    await add_failed(database, "1 second")
    await look()
    await send_all(res)

    assert subjects(mails) == [GONE, GONE_IS_OVER, GONE]
    assert mails.mails[1]["In-Reply-To"] == mails.mails[0]["Message-ID"]
    assert mails.mails[2]["Message-ID"] != mails.mails[0]["Message-ID"]
    newest, before = (await list_alerts(res.engine)).alerts
    assert newest.resolved_at is None
    assert before.resolved_at is not None


async def test_what_comes_and_goes_stays_open_for_longer_each_time(
    look: Look, res: Resources, database: asyncpg.Connection
) -> None:
    async def comes_and_goes(later: str) -> int:
        await add_failed(database, "1 second")
        await look()
        await retry_all(database)
        await look(later)
        return sum(alert.resolved_at is None for alert in (await list_alerts(res.engine)).alerts)

    still_open = [await comes_and_goes(later) for later in ("6 min", "6 min", "11 min", "11 min", "21 min")]

    assert still_open == [0, 1, 0, 1, 0]


async def test_two_watchers_open_one_alert_and_it_is_told_once(
    look: Look, settings: Settings, res: Resources, database: asyncpg.Connection, mails: MailServer
) -> None:
    await add_failed(database, "1 hour")
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(open_resources(settings)) for _ in range(3)]
        looked = await asyncio.gather(*(look_once(each) for each in others for _ in range(3)))
        sent = await asyncio.gather(*(deliver(each, "mail") for each in others for _ in range(3)))

    assert (sum(looked), sum(sent)) == (1, 1)
    assert subjects(mails) == [GONE]


async def test_watchers_that_look_at_the_same_time_all_the_same_open_one_alert(
    res: Resources, database: asyncpg.Connection
) -> None:
    async with connect(res.engine) as conn:
        turn = await record.begin(conn)
    assert turn

    async def note() -> list[str]:
        finding = Condition("waiting", "", 1, "summary", "detail")
        async with connect(res.engine) as conn:
            return await record.save_conditions(conn, turn, [finding], CHANNELS)

    opened = await asyncio.gather(*(note() for _ in range(8)))

    assert sorted(opened, reverse=True) == [["waiting"], *[[]] * 7]
    assert await database.fetchval("SELECT count(*) FROM alert_deliveries") == 3


async def test_a_watcher_that_was_paused_writes_nothing_when_others_looked_since(
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


async def lost_in_several_ways(mails: MailServer, way: str, stack: AsyncExitStack) -> int:
    """Lose the mail server; return the port that is to be asked."""
    if way == "hangs":
        return await stack.enter_async_context(silent_server())
    if way == "refuses connections":
        return free_port()
    mails.says["MAIL"] = way
    return mails.port


@pytest.mark.parametrize("way", ["refuses connections", "hangs", "451 later", "554 never"])
async def test_a_lost_mail_server_holds_up_no_other_channel_and_its_mail_comes_when_it_is_back(
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
        port = await lost_in_several_ways(mails, way, silence)
        lost = settings.model_copy(update={"smtp_url": SecretStr(f"smtp://127.0.0.1:{port}")})
        res = await stack.enter_async_context(open_resources(lost))
        await stack.enter_async_context(watch.alerting(res))
        await eventually(lambda: told(slack, webhook))
        await eventually(lambda: noted(database))  # or they are told once more
        await eventually(lambda: taken(database))
        await silence.aclose()  # for how long one that hangs is waited for is a test of its own
        await eventually(lambda: put_off(database))
    mails.says.clear()
    await soon(database)
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


async def test_jobs_go_on_while_no_channel_takes_anything(
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


async def test_who_is_killed_after_sending_and_before_noting_it_costs_one_more_mail_and_no_storm(
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
    await soon(database)
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


async def test_that_it_is_over_is_told_after_that_it_began(
    look: Look, res: Resources, database: asyncpg.Connection, mails: MailServer
) -> None:
    mails.says["MAIL"] = "451 later"
    await add_failed(database, "1 hour")
    await look()
    await send_all(res, "mail")
    await retry_all(database)
    await look("6 minutes")
    nothing = await deliver(res, "mail")
    mails.says.clear()
    await soon(database)
    await send_all(res, "mail")

    assert nothing is False
    assert subjects(mails) == [GONE, GONE_IS_OVER]


async def test_what_could_not_be_told_for_a_day_is_given_up_and_shows_why(
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


async def test_a_pause_grows_with_each_attempt_and_a_receiver_may_ask_for_one(
    look: Look, res: Resources, database: asyncpg.Connection, slack: Receiver
) -> None:
    async def paused() -> float:
        await soon(database)
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


async def test_without_a_channel_alerts_are_on_record_all_the_same(
    settings: Settings, database: asyncpg.Connection
) -> None:
    off: dict[str, Any] = {"alert_email_to": (), "alert_slack_url": None, "alert_webhook_url": None}
    await add_failed(database, "1 hour")
    async with open_resources(settings.model_copy(update=off)) as res:
        await look_once(res)
        [alert] = (await list_alerts(res.engine)).alerts

    assert channel_names(res.settings) == []
    assert (alert.cause, alert.key, [*alert.deliveries]) == ("failures", "gone@a.example", [])


async def test_without_the_own_address_a_text_says_what_to_set(
    look: Look, settings: Settings, database: asyncpg.Connection, mails: MailServer
) -> None:
    await add_failed(database, "1 hour")
    await look()
    async with open_resources(settings.model_copy(update={"public_url": None})) as res:
        await deliver(res, "mail")

    text = mails.texts[0]
    assert text.endswith("(Set PUBLIC_URL to have links here.)\n")
    assert "://" not in text


async def test_signatures_that_fail_in_a_row_come_on_record_with_no_statement_of_their_requests(
    look: Look, client: Server, res: Resources, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    web = client.res

    async def bad() -> None:
        async with client.session.post(client.webhook, json={}) as answer:
            assert answer.status == 401

    for _ in range(4):
        await bad()
    await watch.tell_bad_signatures(web)
    few = await database.fetchval("SELECT count(*) FROM alert_watch")
    await bad()
    before = await database.fetchval("SELECT count(*) FROM alert_watch")
    await watch.tell_bad_signatures(web)
    await look(res=web)
    [alert] = (await list_alerts(res.engine)).alerts
    await client.send(zendesk.payload())
    await look("6 minutes", res=web)
    [over] = (await list_alerts(res.engine)).alerts

    assert (few, before) == (0, 0)
    assert (alert.cause, alert.count, alert.resolved_at) == ("signatures", 5, None)
    assert over.resolved_at is not None
    assert web.bad_signatures.length == 0


async def test_a_good_signature_between_bad_ones_begins_the_count_anew(
    client: Server, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    for _ in range(3):
        for _ in range(4):
            async with client.session.post(client.webhook, json={}) as answer:
                assert answer.status == 401
        await client.send(zendesk.payload())
    await watch.tell_bad_signatures(client.res)

    assert await database.fetchval("SELECT count(*) FROM alert_watch WHERE bad_signatures > 0") == 0


async def test_a_test_says_of_each_channel_whether_it_took_it(
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
    assert subjects(mails) == ["[Holdfast] A test of the alerts"]
    assert json.loads(webhook.bodies[0])["type"] == "alert.test"


async def test_open_alerts_are_listed_first_then_the_newest(
    look: Look, res: Resources, database: asyncpg.Connection
) -> None:
    for place, resolved in enumerate(("NULL", "now()", "now()", "NULL")):
        await database.execute(
            "INSERT INTO alerts (cause, key, count, summary, detail, resolved_at)"
            f" VALUES ('failures', '{place}', 1, '', '', {resolved})"
        )

    assert [alert.key for alert in (await list_alerts(res.engine)).alerts] == ["3", "0", "2", "1"]
    assert [alert.key for alert in (await list_alerts(res.engine, limit=3)).alerts] == ["3", "0", "2"]


async def test_a_worker_process_finds_and_tells_by_itself(
    settings: Settings, database: asyncpg.Connection, mails: MailServer, slack: Receiver, webhook: Receiver
) -> None:
    await add_failed(database, "1 hour")
    async with program(*ARQ, settings=settings), program(*ARQ, settings=settings, WORKER_NAME="second"):
        await eventually(lambda: arrived(mails))
        await eventually(lambda: told(slack, webhook))
        await eventually(lambda: all_sent(database))

    assert (len(mails.mails), len(slack.bodies), len(webhook.bodies)) == (1, 1, 1)
