"""The page of alerts: open and past ones, and who was told what and when."""

from datetime import UTC, datetime

import asyncpg
import pytest
from pydantic import SecretStr

from service.config.settings import Settings
from tests.conftest import Server
from tests.support.pages import read, words_of
from tests.support.rows import add

AT = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    url = SecretStr("https://hooks.chat.example/services/secret")
    return settings.model_copy(update={"alert_slack_url": url, "alert_email_to": ("ops@acme.example",)})


async def test_alerts_say_who_was_told_what_and_when(client: Server, database: asyncpg.Connection) -> None:
    texts = {"key": "", "count": 1, "detail": "Run `holdfast worker`."}
    past = await add(
        database,
        "alerts",
        cause="silence",
        opened_at=AT,
        resolved_at=AT,
        summary="No <b>webhooks</b>",
        **texts,
    )
    is_open = await add(database, "alerts", cause="no_worker", summary="There is no worker", **texts)
    told = {"status": "sent", "attempts": 1, "sent_at": AT}
    await add(database, "alert_deliveries", alert_id=past, news="opened", channel="mail", **told)
    await add(database, "alert_deliveries", alert_id=past, news="resolved", channel="mail", **told)
    refused = {"status": "failed", "attempts": 7, "error": "mail_refused"}
    await add(database, "alert_deliveries", alert_id=is_open, news="opened", channel="mail", **refused)
    await add(database, "alert_deliveries", alert_id=is_open, news="opened", channel="slack", attempts=2)

    page = await read(client, "/alerts")

    words = words_of(page)
    opened, _, ended = words.partition(" Past ")
    assert "Told by: Mail (ops@acme.example) , Slack (hooks.chat.example) ." in words
    assert "Open 1 There is no worker" in opened
    assert "Mail told: given up after 7 attempts mail_refused" in opened
    assert "Slack told: not yet, 2 attempts" in opened
    assert "No <b>webhooks</b> from 31 Jan 2026, 12:00:00 UTC to 31 Jan 2026, 12:00:00 UTC" in ended
    assert "Mail told 31 Jan 2026, 12:00:00 UTC" in ended
    assert "Mail told that it ended 31 Jan 2026, 12:00:00 UTC" in ended
    assert "services/secret" not in page


async def test_the_overview_leads_to_the_alert(client: Server, database: asyncpg.Connection) -> None:
    texts = {"key": "", "count": 1, "summary": "There is no worker", "detail": "Start one."}
    number = await add(database, "alerts", cause="no_worker", **texts)

    page = await read(client, "/")

    assert f'<a href="/alerts#alert-{number}">There is no worker</a>' in page
    assert f'id="alert-{number}"' in await read(client, "/alerts")
