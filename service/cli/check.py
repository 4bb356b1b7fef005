"""`holdfast check`: look at all that Holdfast stands on."""

import sys
from typing import TYPE_CHECKING

import click

from service.cli.environment import env_file, with_resources
from service.cli.terminal import console, json_option, print_json, style
from service.errors import SettingsError
from service.formatting import printable

if TYPE_CHECKING:
    from service.checks.finding import Check

WORDS = {True: "ok", None: "warn", False: "wrong"}


@click.command()
@click.option("--alerts", "try_alerts", is_flag=True, help="Send a test to each channel of alerts, too.")
@json_option
@env_file
def check(*, try_alerts: bool, as_json: bool) -> None:
    """Look at settings, Postgres, Redis, storage, Zendesk, clocks, workers and targets, and say what to do.

    Exits with 1 if anything is wrong; what only should be better is a warning, and exits with 0.
    """
    checks = _look(try_alerts=try_alerts)
    is_good = all(each.ok is not False for each in checks)
    if as_json:
        from dataclasses import asdict

        print_json({"ok": is_good, "checks": [asdict(each) for each in checks]})
    else:
        show(checks)
    if not is_good:
        sys.exit(1)


def show(checks: "list[Check]") -> None:
    """Print each check on a line, and what to do about it below."""
    from rich.text import Text

    out = console()
    for each in checks:
        word = WORDS[each.ok]
        found = printable(f"{each.name}: {each.found}")
        out.print(Text.assemble((f"{word:<6}", style(word)), found), soft_wrap=True)
        if each.advice:
            out.print(Text(f"      {printable(each.advice)}"), soft_wrap=True)


def _look(*, try_alerts: bool) -> "list[Check]":
    from service.checks.examine import examine
    from service.checks.finding import Check

    try:
        return [*with_resources(examine), *(_try_alerts() if try_alerts else ())]
    except SettingsError as exc:
        return [Check("settings", False, str(line), "set it, or put it right") for line in exc.args]


def _try_alerts() -> "list[Check]":
    import asyncio

    from service.alerts.channels import send_tests
    from service.checks.finding import Check
    from service.config.reading import read_settings

    tried = asyncio.run(send_tests(read_settings()))
    if not tried:
        return [
            Check(
                "alerts",
                None,
                "no channel is set up",
                "set ALERT_EMAIL_TO, ALERT_SLACK_URL or ALERT_WEBHOOK_URL",
            )
        ]
    return [
        Check(f"alerts by {each.channel}", each.error is None, each.error or "took a test message", "")
        for each in tried
    ]
