"""`holdfast quarantine`: list what could not be read or was not used, look at one, read some or all of it again."""

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
    shown_time,
)
from service.formatting import printable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.queries.views import (
        IgnoredDetail,
        IgnoredPage,
        IgnoredView,
        QuarantineDetail,
        QuarantinePage,
        QuarantineView,
    )
    from service.queries.webhooks import IgnoredFilter, QuarantineFilter
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
IGNORED_COLUMNS = (*COLUMNS[:-2], Column("type"))

ignored_option = click.option(
    "--ignored", is_flag=True, help="Events of types that are not used, which are kept beside the quarantine."
)


@click.group()
def quarantine() -> None:
    """Look at webhooks that could not be read, or were not used, and replay them."""


@quarantine.command("list")
@ignored_option
@click.option("--replayed", is_flag=True, help="Those that were replayed, not those that wait.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@json_option
@env_file
def list_(limit: int, *, ignored: bool, replayed: bool, as_json: bool) -> None:
    """List what waits to be replayed, newest first."""
    from service.queries.webhooks import IgnoredFilter, QuarantineFilter

    if ignored:
        others = with_engine(lambda engine: _collect_ignored(engine, IgnoredFilter(replayed=replayed), limit))
        print_json(others) if as_json else print_table(IGNORED_COLUMNS, map(_row, others.ignored))
        return
    page = with_engine(lambda engine: _collect(engine, QuarantineFilter(replayed=replayed), limit))
    print_json(page) if as_json else print_table(COLUMNS, map(_row, page.quarantine))


@quarantine.command()
@click.argument("kept_id", metavar="ID", type=ID)
@ignored_option
@click.option("--raw", is_flag=True, help="Print the body as it came, byte for byte.")
@json_option
@env_file
def show(kept_id: int, *, ignored: bool, raw: bool, as_json: bool) -> None:
    """Show one webhook as it came, and why it could not be read."""
    import base64

    from service.queries.webhooks import get_ignored, get_quarantined

    async def find(engine: "AsyncEngine") -> "QuarantineDetail | IgnoredDetail":
        return await (get_ignored(engine, kept_id) if ignored else get_quarantined(engine, kept_id))

    webhook = with_engine(find)
    body = base64.b64decode(webhook.body_base64)
    if raw:
        print_bytes(body)
    elif as_json:
        print_json(webhook)
    else:
        columns = IGNORED_COLUMNS if ignored else COLUMNS
        print_facts(zip((column.name for column in columns), _row(webhook), strict=True))
        print_facts([("late", "yes, its signature was of another time" if webhook.late else None)])
        click.echo()
        print_facts((str(name), value) for name, value in webhook.headers)
        click.echo()
        click.echo("\n".join(map(printable, webhook.body.splitlines())))


@quarantine.command()
@click.argument("kept_ids", metavar="[ID]...", type=ID, nargs=-1)
@ignored_option
@click.option("--all", "everything", is_flag=True, help="All that wait, oldest first.")
@json_option
@env_file
def replay(kept_ids: tuple[int, ...], *, ignored: bool, everything: bool, as_json: bool) -> None:
    """Make e-mails of webhooks that can be read now, or whose key was another e-mail's."""
    from service.queries.webhooks import ignored_ids, quarantined_ids

    if everything == bool(kept_ids):
        raise click.UsageError("Give either IDs or --all.")

    async def run(res: "Resources") -> Counter[str]:
        ids = kept_ids
        if everything:
            ids = tuple(await (ignored_ids(res.engine) if ignored else quarantined_ids(res.engine)))
        return await _replay(res, ids, ignored=ignored, everything=everything, as_json=as_json)

    outcomes = with_resources(run)
    if everything and not as_json:
        names = ("accepted", "duplicate", "refused", *(["not used"] if ignored else []))
        click.echo(", ".join(f"{outcomes[name]} {name}" for name in names))
    if outcomes["refused"]:
        sys.exit(1)


async def _collect(engine: "AsyncEngine", wanted: "QuarantineFilter", limit: int) -> "QuarantinePage":
    from service.queries.webhooks import list_quarantined

    found: list[QuarantineView] = []
    while True:
        more = {"limit": min(200, limit - len(found))}
        page = await list_quarantined(engine, wanted.model_copy(update=more))
        found += page.quarantine
        if page.next_cursor is None or len(found) == limit:
            return page.model_copy(update={"quarantine": found})
        wanted = wanted.model_copy(update={"cursor": page.next_cursor})


async def _collect_ignored(engine: "AsyncEngine", wanted: "IgnoredFilter", limit: int) -> "IgnoredPage":
    from service.queries.webhooks import list_ignored

    found: list[IgnoredView] = []
    while True:
        more = {"limit": min(200, limit - len(found))}
        page = await list_ignored(engine, wanted.model_copy(update=more))
        found += page.ignored
        if page.next_cursor is None or len(found) == limit:
            return page.model_copy(update={"ignored": found})
        wanted = wanted.model_copy(update={"cursor": page.next_cursor})


def _row(webhook: "QuarantineView | IgnoredView") -> tuple[object, ...]:
    from service.queries.views import IgnoredView

    reason = (
        (webhook.event_type,) if isinstance(webhook, IgnoredView) else (webhook.error_code, webhook.error)
    )
    return (
        webhook.id,
        webhook.account_id or "",
        webhook.invocation_id or "",
        webhook.size,
        shown_time(webhook.received_at),
        webhook.email_id or "",
        *reason,
    )


async def _replay(
    res: "Resources", kept_ids: Sequence[int], *, ignored: bool, everything: bool, as_json: bool
) -> Counter[str]:
    from service import intake
    from service.errors import Rejected

    outcomes = Counter[str]()
    for kept_id in kept_ids:
        try:
            receipt = await intake.replay(res, kept_id, actor(), "ignored" if ignored else "quarantined")
        except Rejected as exc:
            if everything and ignored and exc.code == "event_not_used":  # as most of them
                outcomes["not used"] += 1
                continue
            outcomes["refused"] += 1
            click.echo(printable(exc.message), err=True)
        else:
            outcomes[receipt.status] += 1
            if as_json:
                answer = {"status": receipt.status, "email_id": receipt.number}
                print_json({"ignored_id" if ignored else "quarantine_id": kept_id, **answer}, indent=None)
            else:
                click.echo(f"{kept_id} {receipt.status}: e-mail {receipt.number}")
    return outcomes
