"""`holdfast erase` and `holdfast erasures`: delete on demand of a person, and show what was deleted."""

import sys
from typing import TYPE_CHECKING, TextIO

import click

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
    from service.custody.scopes import Scope
    from service.queries.erasures import ErasurePlanView, ErasureView
    from service.resources import Resources

# The exit code of an erasure that a hold stopped.
HELD = 3
_MAY_HAVE_BEGUN = "If the erasure has begun, it goes on: `holdfast erasures list` shows it."


@click.command()
@click.option("--sender", help="All e-mails of this address.")
@click.option("--ticket", help="All e-mails of this ticket.")
@click.option("--email", type=ID, help="The e-mail with this id.")
@click.option("--file", metavar="SHA256", help="The file with this content, in all e-mails; these stay.")
@click.option(
    "--deleted-in-zendesk",
    "zendesk",
    flag_value="deleted",
    default=None,
    help="All that Zendesk deleted for good, or at least 30 days ago; held ones stay.",
)
@click.option("--reason", help="Why, at most 500 characters. It stays on the receipt; name nobody in it.")
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@click.option("--yes", is_flag=True, help="Do not ask; needed without a terminal.")
@json_option
@env_file
def erase(
    *,
    reason: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **given: str | int | None,
) -> None:
    """Erase all of a sender or a ticket, an e-mail or a file.

    The command first shows what it would delete. Hashes stay, so that no webhook, search or replay brings anything back.
    After an interruption, a worker goes on. Exits with 3 if a hold forbids or stops it.
    """
    if not dry_run and reason is None:
        raise click.UsageError("Give a --reason, or --dry-run.")
    if not (dry_run or yes or sys.stdin.isatty()):
        raise click.UsageError("No terminal: add --yes, or --dry-run.")
    from service.custody.scopes import scope_of
    from service.errors import Rejected

    try:
        scope = scope_of(given)
    except Rejected as exc:
        raise click.UsageError(exc.message) from exc
    plan = with_resources(lambda res: _plan(res, scope))
    if dry_run or not as_json:
        _show_plan(plan, as_json=as_json)
    if plan.held and scope.kind != "zendesk":
        sys.exit(HELD)
    if dry_run:
        return
    if not yes:
        click.confirm("Erase it? This cannot be undone.", abort=True, err=True)
    with going_on(_MAY_HAVE_BEGUN):
        erasure_id = with_resources(lambda res: _start(res, scope, reason or ""))
    _finish(erasure_id, as_json=as_json)


@click.group()
def erasures() -> None:
    """List and show erasures."""


@erasures.command("list")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True)
@json_option
@env_file
def list_erasures(*, limit: int, as_json: bool) -> None:
    """List erasures, newest first."""
    from service.queries import erasures
    from service.queries.pages import PageFilter

    page = with_engine(lambda engine: erasures.list_erasures(engine, PageFilter(limit=limit)))
    if as_json:
        print_json(page)
        return
    columns = [Column("id", whole=True), Column("begun", whole=True), Column("status"), Column("scope")]
    columns += [Column("e-mails"), Column("files"), Column("reason")]
    print_table(
        columns,
        (
            (
                each.id,
                shown_time(each.begun_at),
                each.status,
                each.scope,
                each.emails,
                each.files,
                each.reason,
            )
            for each in page.erasures
        ),
    )


@erasures.command("show")
@click.argument("erasure_id", metavar="ID", type=ID)
@json_option
@env_file
def show_erasure(erasure_id: int, *, as_json: bool) -> None:
    """Show what an erasure deleted; it does not say whom it was about."""
    from service.queries import erasures

    _show(with_engine(lambda engine: erasures.get_erasure(engine, erasure_id)), as_json=as_json)


@erasures.command("copy")
@env_file
def copy_tombstones() -> None:
    """Print a copy of the tombstones.

    Keep it beside the backups; it names nobody.
    A backup that is older than an erasure brings erased e-mails back. `holdfast erasures restore` erases them again.
    """
    from service.custody.tombstone_copies import copied

    async def write(res: "Resources") -> None:
        async for line in copied(res):
            click.echo(line)

    with_resources(write)


@erasures.command("restore")
@click.argument("file", type=click.File())
@json_option
@env_file
def restore_tombstones(file: "TextIO", *, as_json: bool) -> None:
    """After a restore, erase again what was erased.

    The tombstones of the copy are added, and recognise it.
    """
    from service.custody.tombstone_copies import restore

    with going_on(_MAY_HAVE_BEGUN):
        erasure_id = with_resources(lambda res: restore(res, file, actor()))
    _finish(erasure_id, as_json=as_json)


async def _plan(res: "Resources", scope: "Scope") -> "ErasurePlanView":
    from service.custody import erasure
    from service.queries.erasures import plan_view

    return plan_view(await erasure.plan(res, scope))


async def _start(res: "Resources", scope: "Scope", reason: str) -> int:
    from service.custody import erasure

    return await erasure.start(res, scope, reason, actor())


async def _run(res: "Resources", erasure_id: int) -> "ErasureView":
    from service.custody import erasure
    from service.queries.erasures import get_erasure

    await erasure.run(res, erasure_id)
    return await get_erasure(res.engine, erasure_id)


def _finish(erasure_id: int, *, as_json: bool) -> None:
    """Take the steps of an erasure on record, and show it; Ctrl-C ends only this command."""
    with going_on(f"Erasure {erasure_id} is on record and goes on: `holdfast erasures show {erasure_id}`."):
        found = with_resources(lambda res: _run(res, erasure_id))
    _show(found, as_json=as_json)


def _show_plan(plan: "ErasurePlanView", *, as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    print_facts(
        (
            ("e-mails", plan.emails),
            ("not finished", plan.unfinished or None),
            ("files", f"{plan.files} ({plan.bytes:,} bytes)"),
            ("requests", plan.requests),
            ("in targets", plan.documents),
            ("quarantine", plan.webhooks),
            ("suspended", plan.suspended),
        )
    )
    for name, number in plan.held.items():
        print_line(f"Hold {name} covers {number:,} of these: release it first, or erase less.")


def _warn_of_unclaimed(number: int) -> None:
    if number:
        has = counted(number, "object")
        line = f"The storage has {has} without an e-mail. Nobody can tell whose, so no erasure removes any"
        click.echo(f"{line}: docs/custody.md says how to find them.", err=True)


def _show(erasure: "ErasureView", *, as_json: bool) -> None:
    """Print an erasure; exits with 3 if it waits for the release of holds."""
    messages = "" if erasure.scope == "file" else ", with the messages"
    if as_json:
        print_json(erasure)
    else:
        print_facts(
            (
                ("erasure", erasure.id),
                ("receipt", erasure.receipt_id),
                ("status", erasure.status),
                ("scope", erasure.scope),
                ("begun", f"{shown_time(erasure.begun_at)} by {erasure.actor}"),
                ("ended", shown_time(erasure.ended_at) if erasure.ended_at else None),
                ("reason", erasure.reason),
                ("e-mails", erasure.emails),
                ("files", f"{erasure.files} ({erasure.bytes:,} bytes{messages})"),
                ("quarantine", erasure.webhooks),
                ("suspended", erasure.suspended),
                ("held by", ", ".join(erasure.held_by) or None),
                ("waits for", erasure.error),
                ("list SHA-256", erasure.digest),
            )
        )
        _warn_of_unclaimed(erasure.unclaimed)
    if erasure.status == "running" and erasure.held_by:
        sys.exit(HELD)
