"""`holdfast check`: look at all that Holdfast stands on."""

import sys
from typing import TYPE_CHECKING

import click

from service.cli.environment import env_file, with_resources
from service.cli.terminal import console, json_option, print_json, printable, style
from service.errors import SettingsError

if TYPE_CHECKING:
    from service.doctor.findings import Check

WORDS = {True: "ok", None: "warn", False: "wrong"}


@click.command()
@json_option
@env_file
def check(*, as_json: bool) -> None:
    """Look at settings, Postgres, Redis, storage, Zendesk, clocks and workers, and say what to do.

    Exits with 1 if anything is wrong; what only should be better is a warning, and exits with 0.
    """
    checks = _look()
    is_good = all(each.ok is not False for each in checks)
    if as_json:
        from dataclasses import asdict

        print_json({"ok": is_good, "checks": [asdict(each) for each in checks]})
    else:
        _print(checks)
    if not is_good:
        sys.exit(1)


def _look() -> "list[Check]":
    from service.doctor.examine import examine
    from service.doctor.findings import Check

    try:
        return with_resources(examine)
    except SettingsError as exc:
        return [Check("settings", False, str(line), "set it, or put it right") for line in exc.args]


def _print(checks: "list[Check]") -> None:
    from rich.text import Text

    out = console()
    for each in checks:
        word = WORDS[each.ok]
        found = printable(f"{each.name}: {each.found}")
        out.print(Text.assemble((f"{word:<6}", style(word)), found), soft_wrap=True)
        if each.advice:
            out.print(Text(f"      {printable(each.advice)}"), soft_wrap=True)
