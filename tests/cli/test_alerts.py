"""`holdfast alerts` and `holdfast check --alerts`."""

import json

import asyncpg

from service.config.settings import Settings
from service.resources import Resources
from tests.support.commands import command


async def test_alerts_lists_a_table_and_json(settings: Settings, database: asyncpg.Connection) -> None:
    await database.execute(
        "INSERT INTO alerts (cause, key, count, summary, detail) VALUES ('waiting', '', 7, 'E-mails \x1b[2Jwait', 'x')"
    )

    told = await command(settings, "alerts")
    listed = json.loads((await command(settings, "alerts", "--json")).stdout)

    assert (told.returncode, told.stderr) == (0, "")
    assert "waiting\t7\tE-mails \ufffd[2Jwait" in told.stdout
    assert [(alert["cause"], alert["resolved_at"]) for alert in listed["alerts"]] == [("waiting", None)]


async def test_check_alerts_finds_a_channel_that_does_not_answer(
    settings: Settings, database: asyncpg.Connection, res: Resources, unused_tcp_port: int
) -> None:
    silent = json.loads((await command(settings, "check", "--alerts", "--json")).stdout)
    wrong = await command(
        settings,
        "check",
        "--alerts",
        "--json",
        ALERT_SLACK_URL=f"http://127.0.0.1:{unused_tcp_port}/T0/secret",
    )

    assert silent["checks"][-1]["found"] == "no channel is set up"
    (found,) = [each for each in json.loads(wrong.stdout)["checks"] if each["name"] == "alerts by slack"]
    assert found["ok"] is False
    assert wrong.returncode == 1
    assert "secret" not in found["found"]
