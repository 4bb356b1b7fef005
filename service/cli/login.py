"""`holdfast login`, `logout` and `open`: this machine and a server that runs elsewhere."""

import os
import re
import sys
from typing import TYPE_CHECKING, Any

import click

from service.cli.backends.choice import anywhere, with_backend
from service.cli.environment import run
from service.cli.filters import ID
from service.cli.times import shown_time
from service.formatting import printable

if TYPE_CHECKING:
    from service.cli.backends.exchange import Exchange, Server


LONGEST_NAME = 100
SLOW_DOWN_SECONDS = 5.0  # https://www.rfc-editor.org/rfc/rfc8628#section-3.5
MOST_WAIT_SECONDS = 3600.0  # whatever the server says


@click.command()
@click.argument("address", metavar="URL")
@click.option("--name", help="Name of this machine, for the list of logins; by default the host's.")
@click.option("--no-browser", is_flag=True, help="Only print the address to open.")
def login(address: str, name: str | None, *, no_browser: bool) -> None:
    """Sign in at a server, with a browser.

    A person who is signed in there confirms the code that this command shows. From then on commands ask that server,
    where DATABASE_URL is not set. They may do what this person may do, until the end that the page offers.
    """
    import socket

    from service.cli.backends.credentials import Saved, load, normal, save

    url = normal(address)
    load()  # a file that cannot be used ends the command before a person confirms
    held = run(_log_in(url, (name or socket.gethostname())[:LONGEST_NAME] or "?", has_browser=not no_browser))
    save(Saved(url, held["secret"], held["ends_at"].isoformat()))
    who = f" as {held['confirmed_by']}" if held["confirmed_by"] else ""
    click.echo(printable(f"Signed in at {url}{who} ({held['role']}), until {shown_time(held['ends_at'])}."))
    if os.environ.get("DATABASE_URL"):
        click.echo(f"DATABASE_URL is set: commands use it, unless they have --server {url}.", err=True)


@click.command()
@click.option("--server", metavar="URL", help="Sign out there; by default at the server of the newest login.")
def logout(server: str | None) -> None:
    """Sign out: revoke the login of this machine, and forget it."""
    from service.cli.backends.credentials import forget, load, normal
    from service.cli.backends.exchange import Server
    from service.errors import SettingsError

    url = None if server is None else normal(server)
    found = next((each for each in load() if url in {None, each.url}), None)
    if found is None:
        raise SettingsError("Not signed in: there is nothing to end.")
    is_known = run(_log_out(Server(found.url, found.token)))
    forget(found.url)
    click.echo(
        f"Signed out at {found.url}." if is_known else f"{found.url} did not know this login: forgotten here."
    )


@click.command("open")
@click.argument("email_id", metavar="ID", type=ID)
@anywhere
def open_email(email_id: int) -> None:
    """Open the page of an e-mail in a browser.

    The address is printed, too.
    """
    address = with_backend(lambda backend: backend.page(f"/emails/{email_id}"))
    click.echo(address)
    _open_browser(address)


open = open_email  # noqa: A001 the name of the command


async def _log_in(url: str, name: str, *, has_browser: bool) -> dict[str, Any]:
    """Show the code, and wait for a person; return the facts of the login."""
    import asyncio

    from service.cli.backends.exchange import Server, open_exchange

    async with open_exchange(Server(url)) as exchange:
        begun = await _begin(exchange, url, name)
        page = f"{url}{begun['page']}?code={begun['user_code']}"
        click.echo(f"Code: {printable(begun['user_code'])}", err=True)
        click.echo(f"Confirm it at {printable(page)}", err=True)
        if has_browser and await asyncio.to_thread(_open_browser, page):
            click.echo("A browser opens that page.", err=True)
        return {"secret": begun["secret"], **await _wait(exchange, url, begun)}


async def _begin(exchange: "Exchange", url: str, name: str) -> dict[str, Any]:
    from service.cli.backends.exchange import read_json
    from service.errors import Permanent

    begun = read_json(await exchange.ask("POST", "/login/begin", body={"name": name}), url)
    kinds = {"secret": str, "user_code": str, "page": str, "expires_in": int, "interval": int}
    is_ours = isinstance(begun, dict) and all(isinstance(begun.get(key), kind) for key, kind in kinds.items())
    # A path that begins with a slash cannot name another host.
    if not (is_ours and begun["page"].startswith("/") and re.fullmatch("[A-Z-]{4,20}", begun["user_code"])):
        raise Permanent("server_unknown", f"{url} is no Holdfast.")
    return dict(begun)


async def _wait(exchange: "Exchange", url: str, begun: dict[str, Any]) -> dict[str, Any]:
    """Ask until a person has answered; outlives outages. Raises Rejected if refused or too late."""
    import asyncio
    import time

    from service.cli.backends.exchange import read_json
    from service.errors import Rejected, Transient

    end = time.monotonic() + min(begun["expires_in"], MOST_WAIT_SECONDS)
    pause = max(1.0, min(begun["interval"], MOST_WAIT_SECONDS))
    while time.monotonic() < end:
        await asyncio.sleep(pause)
        try:
            answer = await exchange.ask("POST", "/login/poll", body={"secret": begun["secret"]})
        except Transient as exc:
            pause += SLOW_DOWN_SECONDS if exc.code == "slow_down" else 0
            continue
        if (held := _held(read_json(answer, url), url)) is not None:
            return held
    raise Rejected(404, "login_expired", "Nobody confirmed the code in time: run `holdfast login` again.")


def _held(state: Any, url: str) -> dict[str, Any] | None:  # noqa: ANN401 JSON
    """Read the answer to a poll: the facts of the login, or None while it waits."""
    from datetime import datetime

    from service.errors import Permanent

    try:
        if state["status"] == "waiting":
            return None
        ends_at = datetime.fromisoformat(state["ends_at"]).astimezone()
        role, by = str(state["role"]), str(state["confirmed_by"] or "")
    except (KeyError, TypeError, ValueError, OverflowError):
        raise Permanent("server_unknown", f"{url} is no Holdfast.") from None
    return {"role": role, "confirmed_by": by, "ends_at": ends_at}


async def _log_out(server: "Server") -> bool:
    """Revoke the login; return whether the server knew it."""
    from service.cli.backends.exchange import open_exchange
    from service.errors import Rejected

    async with open_exchange(server) as exchange:
        try:
            await exchange.ask("POST", "/api/v1/logout")
        except Rejected as exc:
            if exc.code not in {"not_signed_in", "login_over"}:
                raise
            return False
    return True


def _open_browser(address: str) -> bool:
    """Open a browser where one has a screen; return whether one was found."""
    import webbrowser

    has_screen = (
        sys.platform in {"darwin", "win32"}
        or os.environ.get("DISPLAY")
        or os.environ.get("WAYLAND_DISPLAY")
        or os.environ.get("BROWSER")
    )
    try:
        return bool(has_screen) and webbrowser.open(address)
    except (webbrowser.Error, OSError):
        return False
