"""Run Holdfast on this machine until Ctrl-C."""

import asyncio
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from service.local.launch import ServerError
from service.local.signals import interruptible, run_until_told
from service.local.stack import Stack, is_free, open_stack, wait_until_ready
from service.local.supervisor import GivenUp, supervise

_COLOURS = ("cyan", "magenta", "blue", "yellow", "green")


def run(port: int | None, data_dir: Path, workers: int) -> None:
    """Run web, workers and their servers until Ctrl-C; exit with 2 if they cannot start."""
    with one_line_errors():
        port = port or _port_of_environment()
        if not is_free(port):
            raise ServerError(f"port {port} is taken on 127.0.0.1: choose another with --port")
        with interruptible(), open_stack(data_dir, port, os.environ, say=say) as stack:
            run_until_told(lambda hurry: _run(stack, workers, hurry))
            say("stopping the servers")


def say(line: str) -> None:
    """Print a line of this command, as opposed to a line of one of its processes."""
    name = click.style("holdfast  ", bold=True)
    click.echo(f"{name}│ {line}")


def print_row(name: str, value: str) -> None:
    click.echo(f"  {click.style(f'{name:<10}', bold=True)} {value}")


def command_name() -> str:
    """Return the name to type for our commands, as the user called this one."""
    name = "holdfast"
    if shutil.which(name) == sys.argv[0]:
        return name
    return sys.argv[0] if Path(sys.argv[0]).name == name else f"{sys.executable} -m service"


def try_it(*options: str) -> str:
    """Return a command that sends an e-mail, ready to copy."""
    payload = '{"ticket_id": 35436, "subject": "Hello", "from_email": "me@acme.example", "body_text": "A first e-mail."}'
    attached = "README.md" if Path("README.md").exists() else "FILE"
    return " ".join([f"echo '{payload}' | {command_name()} send -", "--attach", attached, *options])


def env_file_option(data_dir: Path) -> str:
    return f"--env-file {shlex.quote(short(data_dir / 'env'))}"


def short(path: Path) -> str:
    """Return a path below this directory as relative."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print why the command cannot run in one line, and exit with 2."""
    try:
        yield
    except (ServerError, GivenUp, ExceptionGroup) as exc:
        error = _first(exc)
        if not isinstance(error, ServerError | GivenUp):
            raise
        click.echo(f"holdfast: {error}", err=True)
        sys.exit(2)


async def _run(stack: Stack, workers: int, hurry: asyncio.Event) -> None:
    async with supervise(stack.programs(workers, to_files=False), _print_line, hurry):
        await wait_until_ready(stack.url)
        _print_welcome(stack)
        await asyncio.Event().wait()


def _print_line(name: str, line: str) -> None:
    if name == "supervisor":
        say(click.style(line, fg="yellow"))
    else:
        colour = _COLOURS[sum(name.encode()) % len(_COLOURS)]
        click.echo(f"{click.style(f'{name:<10}', fg=colour)}│ {line}")


def _print_welcome(stack: Stack) -> None:
    click.secho("\n  Holdfast is ready.\n", fg="green", bold=True)
    print_row("dashboard", f"{stack.url}/    (sign in with the token)")
    print_row("webhook", f"{stack.url}/webhooks/zendesk")
    print_row("secret", _generated(stack, "ZENDESK_WEBHOOK_SECRETS"))
    print_row("API", f"{stack.url}/api/v1/emails")
    print_row("token", _generated(stack, "API_TOKEN"))
    print_row("files", stack.settings["STORAGE_URL"])
    print_row("settings", str(stack.data_dir / "env"))
    print_row("try it", f"{try_it(*_file_option(stack.data_dir))}    (in another terminal)")
    print_row("stop", "Ctrl-C\n")


def _file_option(data_dir: Path) -> Sequence[str]:
    """Return the option that commands need to find the settings; none for the directory that they look into."""
    return () if data_dir == Path(".holdfast").resolve() else (env_file_option(data_dir),)


def _generated(stack: Stack, name: str) -> str:
    """Return a generated secret; never print one of the user's own."""
    return "as in your environment" if stack.own.get(name) else stack.settings[name]


def _port_of_environment() -> int:
    text = os.environ.get("PORT") or "8000"
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise ServerError("PORT must be a number from 1 to 65535, for example PORT=8000")
    return int(text)


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
