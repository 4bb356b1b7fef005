"""`holdfast release`: what a platform runs before a new version, or new settings, take the place of the old."""

import sys
from typing import TYPE_CHECKING

import click

from service.cli.check import show
from service.cli.processes import run_migrations

if TYPE_CHECKING:
    from service.checks.finding import Check


@click.command()
def release() -> None:
    """Check all settings that web and worker need, then run the migrations; for a platform's release phase.

    Exits with 2 for a setting that is wrong by itself, with 1 for one that does not work or a migration that cannot
    be run. Nothing is migrated then, and Heroku keeps the release before. What only should be better is a warning.
    """
    checks = _look()
    show([check for check in checks if check.ok is not True] or checks)
    if any(check.ok is False for check in checks):
        click.echo("Not released: nothing was migrated, and what runs goes on.", err=True)
        sys.exit(1)
    run_migrations()
    from service.telemetry.version import commit, version

    click.echo(f"Ready: version {version()}, commit {commit()}.")


def _look() -> "list[Check]":
    from service.checks.examine import examine_release
    from service.cli.environment import with_resources
    from service.config.reading import NEEDED, read_settings
    from service.errors import SettingsError
    from service.resources import check_usable

    try:
        # Heroku's release phase has the settings of web and worker alike.
        settings = read_settings(*NEEDED, "zendesk_webhook_secrets")
        check_usable(settings)
    except SettingsError as exc:
        for line in exc.args:
            click.echo(str(line), err=True)
        click.echo("Not released: nothing was migrated, and what runs goes on.", err=True)
        sys.exit(2)
    return with_resources(examine_release)
