"""`holdfast storage`: move and verify the objects."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli.environment import env_file, run
from service.cli.reconcile import verify
from service.cli.terminal import json_option, print_json, progress
from service.formatting import printable

if TYPE_CHECKING:
    from service.errors import HoldfastError
    from service.storage.move import MoveProgress
    from service.storage.objects import Storage

RANGES = 256


class StorageUrl(click.ParamType[str]):
    """An address like STORAGE_URL; an error never shows it."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401 as click declares it
        from urllib.parse import urlsplit

        from service.config.settings import STORAGE_SCHEMES

        schemes = tuple(f"{scheme}://" for scheme in STORAGE_SCHEMES)
        if not value.startswith(schemes) or (value.startswith("file:") and not value.startswith("file:///")):
            self.fail(f"must begin with file:/// or {' or '.join(schemes[1:])}", param, ctx)
        if "?" in value or "#" in value:
            self.fail("must have neither ? nor #: the rest would be ignored", param, ctx)
        try:
            has_password = ":" in urlsplit(value).netloc
        except ValueError:
            self.fail("is not a URL", param, ctx)
        if has_password:
            self.fail("holds credentials: put them into the vendor's variables", param, ctx)
        return str(value)


@click.group()
def storage() -> None:
    """Move and verify objects, our copies of attachments."""


storage.add_command(verify)


@storage.command()
@click.argument("source", metavar="FROM", type=StorageUrl())
@click.argument("target", metavar="TO", type=StorageUrl())
@click.option(
    "--from-env",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file with the vendor's variables for FROM, if they differ from those for TO.",
)
@click.option(
    "--delete",
    is_flag=True,
    help="Remove objects from FROM once they are verified in TO; nothing may use FROM any more.",
)
@json_option
@env_file
def move(source: str, target: str, from_env: Path | None, *, delete: bool, as_json: bool) -> None:
    """Copy every object from one storage to another.

    FROM and TO are addresses like STORAGE_URL. Neither Postgres nor Redis is needed, and Holdfast may run meanwhile.
    Objects that are in TO with the right size are not copied again; after an interruption, run the command again. A
    damaged object is listed and not copied. Exits with 1 if there is one, or if FROM has no objects.
    """
    origin, goal = _open(source, target, from_env, delete=delete)
    with progress("Moving", RANGES) as show_progress:

        def show(done: "MoveProgress") -> None:
            show_progress(done.ranges, _line(done))

        done = run(_move(origin, goal, show, delete=delete))
    if as_json:
        print_json(
            {
                "complete": done.is_complete,
                "copied": done.copied,
                "copied_bytes": done.copied_bytes,
                "skipped": done.skipped,
                "removed": done.removed,
                "problems": dict(done.problems),
                "stopped": done.stopped,
            }
        )
    else:
        click.echo(_line(done))
    if done.stopped:
        click.echo(
            printable(f"The move stopped early: {done.stopped}. Run it again once that is solved."), err=True
        )
    if not done.is_complete:
        sys.exit(1)


def _open(source: str, target: str, from_env: Path | None, *, delete: bool) -> "tuple[Storage, Storage]":
    """Open both; raises UsageError if they overlap, or if --delete would empty the storage in use."""
    from dotenv import dotenv_values

    from service.errors import Transient
    from service.storage.objects import open_storage
    from service.storage.vendors import locate, overlap, variables

    given = None
    if from_env:
        given = {name: value or "" for name, value in dotenv_values(from_env, interpolate=False).items()}
    try:
        with variables(given):
            origin, origin_address = open_storage(source), locate(source)
        goal, goal_address = open_storage(target), locate(target)
    except Transient as exc:
        raise click.UsageError(printable(exc.message)) from None
    if overlap(origin_address, goal_address):
        raise click.UsageError("FROM and TO are the same storage, or one contains the other: give two.")
    used = os.environ.get("STORAGE_URL")
    if delete and used and overlap(locate(used), origin_address):
        raise click.UsageError("STORAGE_URL is still FROM: set it to TO everywhere and restart first.")
    return origin, goal


async def _move(
    source: "Storage", target: "Storage", show: "Callable[[MoveProgress], None]", *, delete: bool
) -> "MoveProgress":
    from service.storage.move import Callbacks
    from service.storage.move import move as move_all

    def complain(what: str, error: "HoldfastError") -> None:
        click.echo(printable(f"{what}: {error.code}: {error.message}"), err=True)

    return await move_all(source, target, Callbacks(show, complain), delete=delete)


def _line(done: "MoveProgress") -> str:
    from rich.filesize import decimal

    problems = sum(done.problems.values())
    parts = [
        f"{done.copied:,} copied ({decimal(done.copied_bytes)})",
        f"{done.skipped:,} were there",
        f"{done.removed:,} removed" if done.removed else "",
        f"{problems:,} problems" if problems else "",
    ]
    return ", ".join(filter(None, parts))
