"""Which Holdfast a command is about: that of --server, or else of DATABASE_URL, or else of the newest login."""

import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from service.cli.environment import actor, env_file, run

if TYPE_CHECKING:
    from service.cli.backends.port import Backend

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_SERVER = "service.cli.backends.server"  # in click's `meta`


def anywhere(command: F) -> F:
    """Add the options that name a Holdfast to a command that runs on any machine."""
    return env_file(_server(command))


def with_backend(work: "Callable[[Backend], Awaitable[T]]") -> T:
    """Run work with the Holdfast that the options or the environment name; errors as in `run`."""
    opened = _opened()  # here, because files are read

    async def work_with() -> T:
        async with opened as backend:
            return await work(backend)

    return run(work_with())


def _opened() -> "AbstractAsyncContextManager[Backend]":
    address = click.get_current_context().meta.get(_SERVER)
    if address is None and os.environ.get("DATABASE_URL"):
        from service.cli.backends.database import open_database

        return open_database(actor())
    from service.cli.backends.credentials import server_at
    from service.errors import SettingsError

    server = server_at(address)
    if server is None:
        raise SettingsError(
            "DATABASE_URL is not set, and nobody is signed in: run `holdfast login https://HOST`, or set DATABASE_URL"
            " beside the service."
        )
    from service.cli.backends.api import open_api

    return open_api(server)


def _keep(context: click.Context, _: click.Parameter, address: str | None) -> None:
    if address is not None:
        context.meta[_SERVER] = address


_server = click.option(
    "--server",
    metavar="URL",
    expose_value=False,
    callback=_keep,
    help="Ask this server, with the login there; by default DATABASE_URL, or else the newest login.",
)
