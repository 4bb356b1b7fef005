"""`holdfast quarantine`: list what could not be read, look at one, read some or all of it again."""

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from service.cli.emails import ID
from service.cli.environment import actor, env_file, with_engine, with_resources
from service.cli.terminal import (
    Column,
    json_option,
    print_bytes,
    print_facts,
    print_json,
    print_table,
    printable,
    shown_time,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.queries.quarantine import QuarantineFilter
    from service.queries.views import QuarantinePage, QuarantineView
    from service.resources import Resources

COLUMNS = (
    Column("id", whole=True),
    Column("account", least_width=150),
    Column("invocation", least_width=150),
    Column("bytes", whole=True, least_width=100),
    Column("received", whole=True),
    Column("e-mail", whole=True, least_width=100),
    Column("code", whole=True),
    Column("reason"),
)


@click.group()
def quarantine() -> None:
    """Look at webhooks that could not be read, and replay them."""


@quarantine.command("list")
@click.option("--replayed", is_flag=True, help="Those that were replayed, not those that wait.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@json_option
@env_file
def list_(limit: int, *, replayed: bool, as_json: bool) -> None:
    """List what waits to be replayed, newest first."""
    from service.queries.quarantine import QuarantineFilter

    wanted = QuarantineFilter(replayed=replayed)
    page = with_engine(lambda engine: _collect(engine, wanted, limit))
    if as_json:
        print_json(page)
    else:
        print_table(COLUMNS, map(_row, page.quarantine))


@quarantine.command()
@click.argument("quarantine_id", metavar="ID", type=ID)
@click.option("--raw", is_flag=True, help="Print the body as it came, byte for byte.")
@json_option
@env_file
def show(quarantine_id: int, *, raw: bool, as_json: bool) -> None:
    """Show one webhook as it came, and why it could not be read."""
    import base64

    from service.queries.quarantine import get_quarantined

    webhook = with_engine(lambda engine: get_quarantined(engine, quarantine_id))
    body = base64.b64decode(webhook.body_base64)
    if raw:
        print_bytes(body)
    elif as_json:
        print_json(webhook)
    else:
        print_facts(zip((column.name for column in COLUMNS), _row(webhook), strict=True))
        click.echo()
        print_facts((str(name), value) for name, value in webhook.headers)
        click.echo()
        click.echo("\n".join(map(printable, webhook.body.splitlines())))


@quarantine.command()
@click.argument("quarantine_ids", metavar="[ID]...", type=ID, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that wait, oldest first.")
@json_option
@env_file
def replay(quarantine_ids: tuple[int, ...], *, everything: bool, as_json: bool) -> None:
    """Make e-mails of webhooks that can be read now, or whose key was another e-mail's."""
    from service.queries.quarantine import waiting_ids

    if everything == bool(quarantine_ids):
        raise click.UsageError("Give either IDs or --all.")

    async def run(res: "Resources") -> Counter[str]:
        ids = await waiting_ids(res.engine) if everything else quarantine_ids
        return await _replay(res, ids, as_json=as_json)

    outcomes = with_resources(run)
    if everything and not as_json:
        click.echo(", ".join(f"{outcomes[name]} {name}" for name in ("accepted", "duplicate", "refused")))
    if outcomes["refused"]:
        sys.exit(1)


async def _collect(engine: "AsyncEngine", wanted: "QuarantineFilter", limit: int) -> "QuarantinePage":
    from service.queries.quarantine import list_quarantined

    found: list[QuarantineView] = []
    while True:
        more = {"limit": min(200, limit - len(found))}
        page = await list_quarantined(engine, wanted.model_copy(update=more))
        found += page.quarantine
        if page.next_cursor is None or len(found) == limit:
            return page.model_copy(update={"quarantine": found})
        wanted = wanted.model_copy(update={"cursor": page.next_cursor})


def _row(webhook: "QuarantineView") -> tuple[object, ...]:
    return (
        webhook.id,
        webhook.account_id or "",
        webhook.invocation_id or "",
        webhook.size,
        shown_time(webhook.received_at),
        webhook.email_id or "",
        webhook.error_code,
        webhook.error,
    )


async def _replay(res: "Resources", quarantine_ids: Sequence[int], *, as_json: bool) -> Counter[str]:
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
            if as_json:
                answer = {"status": receipt.status, "email_id": receipt.number}
                print_json({"quarantine_id": quarantine_id, **answer}, indent=None)
            else:
                click.echo(f"{quarantine_id} {receipt.status}: e-mail {receipt.number}")
    return outcomes
