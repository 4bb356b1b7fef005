"""`holdfast storage`: what can be done with the objects, wherever they are kept."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli.environment import env_file, run
from service.cli.terminal import json_option, print_json, progress
from service.cli.verify import verify
from service.formatting import printable

if TYPE_CHECKING:
    from service.errors import HoldfastError
    from service.storage.move import Moved
    from service.storage.objects import Storage

RANGES = 256


class StorageUrl(click.ParamType[str]):
    """As STORAGE_URL; what is wrong with one is told without showing it."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401 as click declares it
        from urllib.parse import urlsplit

        from service.config.settings import STORAGE_SCHEMES

        schemes = tuple(f"{scheme}://" for scheme in STORAGE_SCHEMES)
        if not value.startswith(schemes) or (value.startswith("file:") and not value.startswith("file:///")):
            self.fail(f"must begin with file:/// or {' or '.join(schemes[1:])}", param, ctx)
        if "?" in value or "#" in value:
            self.fail("must have neither ? nor #, all behind which would be left out", param, ctx)
        try:
            has_password = ":" in urlsplit(value).netloc
        except ValueError:
            self.fail("is not a URL", param, ctx)
        if has_password:
            self.fail("holds credentials; they belong into the vendor's variables", param, ctx)
        return str(value)


@click.group()
def storage() -> None:
    """Look after the objects, which the files of e-mails are kept as."""


storage.add_command(verify)


@storage.command()
@click.argument("source", metavar="FROM", type=StorageUrl())
@click.argument("target", metavar="TO", type=StorageUrl())
@click.option(
    "--from-env",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file with the vendor's variables for FROM, where they are others than those for TO.",
)
@click.option(
    "--delete",
    is_flag=True,
    help="Remove from FROM what is proven to be in TO; nobody may use FROM any more.",
)
@json_option
@env_file
def move(source: str, target: str, from_env: Path | None, *, delete: bool, as_json: bool) -> None:
    """Copy every object from one storage to another; both are written as STORAGE_URL is.

    It takes neither Postgres nor Redis, and Holdfast may go on meanwhile. What is in TO with the right size is not
    copied again, so a move that was interrupted is started again. Nothing is placed in TO whose bytes are not those
    of its key: it is named, and the exit code is 1, as it is where FROM has no objects at all.
    """
    opened, aim = _open(source, target, from_env, delete=delete)
    with progress("Moving", RANGES) as tell:

        def show(done: "Moved") -> None:
            tell(done.ranges, _line(done))

        done = run(_move(opened, aim, show, delete=delete))
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
        click.echo(printable(f"Not all was tried: {done.stopped}"), err=True)
    if not done.is_complete:
        sys.exit(1)


def _open(source: str, target: str, from_env: Path | None, *, delete: bool) -> "tuple[Storage, Storage]":
    """Open both; raises UsageError if they are no two storages, or one that is in use is to be emptied."""
    from dotenv import dotenv_values

    from service.errors import Transient
    from service.storage.addresses import locate, overlap, variables
    from service.storage.objects import open_storage

    given = None
    if from_env:
        given = {name: value or "" for name, value in dotenv_values(from_env, interpolate=False).items()}
    try:
        with variables(given):
            opened, origin = open_storage(source), locate(source)
        aim, goal = open_storage(target), locate(target)
    except Transient as exc:
        raise click.UsageError(printable(exc.message)) from None
    if overlap(origin, goal):
        raise click.UsageError("FROM and TO are the same storage, or one lies in the other.")
    used = os.environ.get("STORAGE_URL")
    if delete and used and overlap(locate(used), origin):
        raise click.UsageError("STORAGE_URL is FROM still: switch to TO first, everywhere, and restart.")
    return opened, aim


async def _move(
    source: "Storage", target: "Storage", show: "Callable[[Moved], None]", *, delete: bool
) -> "Moved":
    from service.storage.move import Watch
    from service.storage.move import move as move_all

    def complain(what: str, error: "HoldfastError") -> None:
        click.echo(printable(f"{what}: {error.code}: {error.message}"), err=True)

    return await move_all(source, target, Watch(show, complain), delete=delete)


def _line(done: "Moved") -> str:
    from rich.filesize import decimal

    problems = sum(done.problems.values())
    parts = [
        f"{done.copied:,} copied ({decimal(done.copied_bytes)})",
        f"{done.skipped:,} were there",
        f"{done.removed:,} removed" if done.removed else "",
        f"{problems:,} problems" if problems else "",
    ]
    return ", ".join(filter(None, parts))
