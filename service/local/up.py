"""Run all of Holdfast on this machine until Ctrl-C."""

import asyncio
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from service.local.launch import ServerError
from service.local.signals import interruptible, run_until_told
from service.local.stack import Stack, is_free, open_stack, wait_until_ready
from service.local.supervisor import GivenUp, supervise

_COLOURS = ("cyan", "magenta", "blue", "yellow", "green")


def run(port: int | None, data_dir: Path, workers: int) -> None:
    """Start it, say where it is, and end all of it with Ctrl-C; exits with 2 where it cannot start."""
    with one_line_errors():
        port = port or _port_of_environment()
        if not is_free(port):
            raise ServerError(f"port {port} is taken on 127.0.0.1: choose another with --port")
        with interruptible(), open_stack(data_dir, port, os.environ, say=say) as stack:
            run_until_told(lambda hurry: _run(stack, workers, hurry))
            say("stopping the servers")


def say(what: str) -> None:
    """Tell the user what happens, as opposed to what a process has to say."""
    name = click.style("holdfast  ", bold=True)
    click.echo(f"{name}│ {what}")


def try_it(*options: str) -> str:
    """Return a command to copy that sends an e-mail, for the way in which we were called."""
    name = "holdfast"
    if shutil.which(name) != sys.argv[0]:
        name = sys.argv[0] if Path(sys.argv[0]).name == name else f"{sys.executable} -m service"
    payload = '{"ticket_id": 35436, "subject": "Hello"}'
    attached = "README.md" if Path("README.md").exists() else "FILE"
    return " ".join([f"echo '{payload}' | {name} send -", "--attach", attached, *options])


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Tell why it cannot run in one line, and exit with 2."""
    try:
        yield
    except (ServerError, GivenUp, ExceptionGroup) as exc:
        error = _first(exc)
        if not isinstance(error, ServerError | GivenUp):
            raise
        click.echo(f"holdfast: {error}", err=True)
        sys.exit(2)


async def _run(stack: Stack, workers: int, hurry: asyncio.Event) -> None:
    async with supervise(stack.programs(workers, to_files=False), _pass_on, hurry):
        await wait_until_ready(stack.url)
        click.echo(_welcome(stack))
        await asyncio.Event().wait()


def _pass_on(who: str, line: str) -> None:
    if who == "supervisor":
        say(click.style(line, fg="yellow"))
    else:
        colour = _COLOURS[sum(who.encode()) % len(_COLOURS)]
        click.echo(f"{click.style(f'{who:<10}', fg=colour)}│ {line}")


def _welcome(stack: Stack) -> str:
    settings = stack.settings
    lines = [
        ("dashboard", f"{stack.url}/    (sign in with the token)"),
        ("webhook", f"{stack.url}/webhooks/zendesk"),
        ("secret", _shown(stack, "ZENDESK_WEBHOOK_SECRETS")),
        ("API", f"{stack.url}/api/v1/emails"),
        ("token", _shown(stack, "API_TOKEN")),
        ("files", settings["STORAGE_URL"]),
        ("settings", str(stack.data_dir / "env")),
        ("try it", f"{try_it()}    (in another terminal)"),
        ("stop", "Ctrl-C"),
    ]
    rows = "\n".join(f"  {click.style(f'{name:<10}', bold=True)} {value}" for name, value in lines)
    return f"\n  {click.style('Holdfast is ready.', fg='green', bold=True)}\n\n{rows}\n"


def _shown(stack: Stack, name: str) -> str:
    return "as in your environment" if stack.own.get(name) else stack.settings[name]


def _port_of_environment() -> int:
    text = os.environ.get("PORT") or "8000"
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise ServerError("PORT: must be a number from 1 to 65535, for example PORT=8000")
    return int(text)


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
