"""`holdfast receipts`: what was deleted; `holdfast purge`: delete now what retention rules make due."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from service.cli.dismiss import ask
from service.cli.environment import actor, env_file, going_on, with_engine, with_resources
from service.cli.filters import ID
from service.cli.terminal import (
    Column,
    json_option,
    print_facts,
    print_json,
    print_line,
    print_table,
)
from service.cli.times import shown_time
from service.formatting import counted

if TYPE_CHECKING:
    from service.custody.simulation import Simulation, Volume
    from service.queries.receipts import ReceiptView
    from service.resources import Resources

COLUMNS = (
    Column("receipt", whole=True),
    Column("kind", whole=True),
    Column("state", whole=True),
    Column("begun", whole=True),
    Column("e-mails", whole=True),
    Column("files", whole=True),
    Column("bytes", whole=True, least_width=80),
    Column("by"),
)


@click.group()
def receipts() -> None:
    """Show what purges and erasures deleted."""


@receipts.command("list")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="Most to list.")
@click.option("--cursor", help="The cursor that the previous page ended with.")
@json_option
@env_file
def list_receipts(limit: int, cursor: str | None, *, as_json: bool) -> None:
    """List receipts, newest first."""
    from service.queries import receipts
    from service.queries.pages import PageFilter

    wanted = PageFilter(limit=limit, cursor=cursor)
    page = with_engine(lambda engine: receipts.list_receipts(engine, wanted))
    if as_json:
        print_json(page)
        return
    rows = (
        (
            each.id,
            each.kind,
            each.status,
            shown_time(each.begun_at),
            each.emails,
            each.files,
            f"{each.bytes:,}",
            each.actor,
        )
        for each in page.receipts
    )
    print_table(COLUMNS, rows)
    if page.next_cursor:
        click.echo(f"More: --cursor {page.next_cursor}", err=True)


@receipts.command()
@click.argument("receipt_id", metavar="ID", type=ID)
@json_option
@env_file
def show(receipt_id: int, *, as_json: bool) -> None:
    """Show a receipt: its numbers, and a hash.

    It is the hash of the list of what was removed.
    """
    from service.queries.receipts import get_receipt

    found = with_engine(lambda engine: get_receipt(engine, receipt_id))
    print_json(found) if as_json else _print_receipt(found)


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--yes", is_flag=True, help="Do not ask; needed without a terminal.")
@json_option
@env_file
def purge(*, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Delete what retention rules make due, now.

    Workers do it from time to time. Nothing that a hold covers is deleted. An interrupted purge is continued by a worker, or by this command.
    """
    planned = with_resources(_simulate)
    if dry_run or not _total(planned):
        _print_plan(planned, as_json=as_json)
        return
    ask(f"Delete {counted(_total(planned), 'e-mail')} for ever?", yes=yes)
    with going_on("Workers go on with the purge: `holdfast receipts list` shows it."):
        receipt = with_resources(_purge)
    if receipt is None:
        click.echo("Another process purges at this moment: `holdfast receipts list` shows it.", err=True)
        sys.exit(1)
    print_json(receipt) if as_json else _print_receipt(receipt)


async def _simulate(res: "Resources") -> "Simulation":
    from service.custody.retention_rules import load_binding_rules
    from service.custody.simulation import simulate

    rules = await res.run(load_binding_rules)
    return await simulate(res.engine, rules, res.settings.retention_floor_days)


async def _purge(res: "Resources") -> "ReceiptView | None":
    from service.custody.purge import purge
    from service.queries.receipts import get_receipt

    receipt_id = await purge(res, actor())
    return None if receipt_id is None else await get_receipt(res.engine, receipt_id)


def _total(planned: "Simulation") -> int:
    return int(sum(outcome.now.emails for outcome in planned.outcomes))


def _print_plan(planned: "Simulation", *, as_json: bool) -> None:
    if as_json:
        rules = [
            {"rule": each.rule.name, **_counts(each.now), "held": each.held} for each in planned.outcomes
        ]
        print_json({"emails": _total(planned), "rules": rules})
        return
    for each in planned.outcomes:
        what = (
            f"{each.now.emails} e-mails, {each.now.files} files, {each.now.bytes:,} bytes; {each.held} held"
        )
        print_line(f"{each.rule.name}:", what)
    print_line(f"{counted(_total(planned), 'e-mail')} would be deleted now.")


def _counts(volume: "Volume") -> dict[str, int]:
    # Sums of Postgres are decimal numbers.
    return {name: int(count) for name, count in asdict(volume).items()}


def _print_receipt(found: "ReceiptView") -> None:
    rules = ", ".join(f"{name} {count}" for name, count in (found.rules or {}).items())
    print_line(f"{found.kind} {found.id}", found.status)
    print_facts(
        (
            ("by", found.actor),
            ("reason", found.reason),
            ("begun", shown_time(found.begun_at)),
            ("ended", shown_time(found.ended_at) if found.ended_at else None),
            ("e-mails", f"{found.emails}" + (f" ({rules})" if rules else "")),
            ("files", f"{found.files}, {found.bytes:,} bytes with messages"),
            ("held", found.held),
            ("objects", _objects(found)),
            ("documents", f"{found.documents_waiting} still to be replaced in the targets"),
            ("list", f"SHA-256 {found.digest}" if found.digest else None),
        )
    )


def _objects(found: "ReceiptView") -> str:
    parts = (
        f"{found.objects_removed} removed",
        f"{found.objects_waiting} waiting",
        f"{found.objects_kept} shared with other e-mails" if found.status == "done" else "",
        f"{found.objects_locked} locked: {found.lock_reason}" if found.objects_locked else "",
    )
    return ", ".join(filter(None, parts))
