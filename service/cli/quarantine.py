"""`holdfast quarantine`: list what could not be read, look at one, read some or all of it again."""

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from service.cli.emails import ID
from service.cli.environment import actor, env_file, with_engine, with_resources
from service.cli.terminal import print_json, print_table, printable

if TYPE_CHECKING:
    from service.resources import Resources


@click.group()
def quarantine() -> None:
    """Look at webhooks that could not be read, and replay them."""


@quarantine.command("list")
@click.option("--replayed", is_flag=True, help="Those that were replayed, not those that wait.")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True)
@env_file
def list_(*, replayed: bool, limit: int) -> None:
    """List what waits to be replayed, newest first."""
    from service.queries.quarantine import QuarantineFilter, list_quarantined

    wanted = QuarantineFilter(replayed=replayed, limit=limit)
    page = with_engine(lambda engine: list_quarantined(engine, wanted))
    rows = (
        (
            webhook.id,
            webhook.account_id or "",
            webhook.invocation_id or "",
            webhook.size,
            f"{webhook.received_at:%Y-%m-%d %H:%M:%S}",
            webhook.email_id or "",
            webhook.error_code,
            webhook.error,
        )
        for webhook in page.quarantine
    )
    columns = ("id", "account", "invocation", "bytes", "received", "e-mail", "code", "reason")
    print_table(columns, rows, whole=("id", "bytes", "received", "e-mail", "code"))


@quarantine.command()
@click.argument("quarantine_id", metavar="ID", type=ID)
@env_file
def show(quarantine_id: int) -> None:
    """Show one webhook as it came, as JSON; `body_base64` has each of its bytes."""
    from service.queries.quarantine import get_quarantined

    print_json(with_engine(lambda engine: get_quarantined(engine, quarantine_id)))


@quarantine.command()
@click.argument("quarantine_ids", metavar="[ID]...", type=ID, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that wait, oldest first.")
@env_file
def replay(quarantine_ids: tuple[int, ...], *, everything: bool) -> None:
    """Make e-mails of webhooks that can be read now, or whose key was another e-mail's."""
    from service.queries.quarantine import waiting_ids

    if everything == bool(quarantine_ids):
        raise click.UsageError("Give either IDs or --all.")

    async def run(res: "Resources") -> Counter[str]:
        return await _replay(res, await waiting_ids(res.engine) if everything else quarantine_ids)

    outcomes = with_resources(run)
    if everything:
        click.echo(", ".join(f"{outcomes[name]} {name}" for name in ("accepted", "duplicate", "refused")))
    if outcomes["refused"]:
        sys.exit(1)


async def _replay(res: "Resources", quarantine_ids: Sequence[int]) -> Counter[str]:
    from service import intake
    from service.errors import Rejected

    outcomes = Counter[str]()
    for quarantine_id in quarantine_ids:
        try:
            receipt = await intake.replay(res, quarantine_id, actor())
        except Rejected as exc:
            outcomes["refused"] += 1
            click.echo(printable(exc.message), err=True)
        else:
            outcomes[receipt.status] += 1
            click.echo(f"{quarantine_id} {receipt.status}: e-mail {receipt.number}")
    return outcomes
