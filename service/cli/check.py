"""`holdfast check`: check the settings and every dependency."""

import sys
from typing import TYPE_CHECKING

import click

from service.cli.environment import env_file, with_resources
from service.cli.terminal import console, json_option, print_json, style
from service.errors import SettingsError
from service.formatting import printable

if TYPE_CHECKING:
    from service.checks.probe import Check

WORDS = {True: "ok", None: "warn", False: "wrong"}


@click.command()
@click.option("--alerts", "try_alerts", is_flag=True, help="Also send a test message to every alert channel.")
@json_option
@env_file
def check(*, try_alerts: bool, as_json: bool) -> None:
    """Check the settings and every dependency, with advice.

    The dependencies are Postgres, Redis, storage, Zendesk, clocks, workers and targets.

    Exits with 1 if anything is wrong, and with 0 if there are only warnings.
    """
    checks = _run_checks(try_alerts=try_alerts)
    is_good = all(each.ok is not False for each in checks)
    if as_json:
        from dataclasses import asdict

        print_json({"ok": is_good, "checks": [asdict(each) for each in checks]})
    else:
        print_checks(checks)
    if not is_good:
        sys.exit(1)


def print_checks(checks: "list[Check]") -> None:
    """Print one check per line, with its advice below."""
    from rich.text import Text

    out = console()
    for each in checks:
        word = WORDS[each.ok]
        found = printable(f"{each.name}: {each.found}")
        out.print(Text.assemble((f"{word:<6}", style(word)), found), soft_wrap=True)
        if each.advice:
            out.print(Text(f"      {printable(each.advice)}"), soft_wrap=True)


def _run_checks(*, try_alerts: bool) -> "list[Check]":
    from service.checks.probe import Check
    from service.checks.report import check_all

    try:
        return [*with_resources(check_all), *(_try_alerts() if try_alerts else ())]
    except SettingsError as exc:
        return [Check("settings", False, str(line), "correct it, and run this again") for line in exc.args]


def _try_alerts() -> "list[Check]":
    import asyncio

    from service.alerts.channels import send_tests
    from service.checks.probe import Check
    from service.checks.settings import NO_CHANNEL_ADVICE
    from service.config.reading import read_settings

    tried = asyncio.run(send_tests(read_settings()))
    if not tried:
        return [Check("alerts", None, "no channel is set up", NO_CHANNEL_ADVICE)]
    return [
        Check(f"alerts by {each.channel}", each.error is None, each.error or "accepted a test message", "")
        for each in tried
    ]
