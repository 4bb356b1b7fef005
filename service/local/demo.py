"""Run Holdfast beside a stand-in Zendesk that sends twenty e-mails, and show what becomes of them."""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from service.local import environment
from service.local.board import open_board
from service.local.launch import ServerError
from service.local.play import Play, perform
from service.local.servers import free_port
from service.local.signals import interruptible, run_until_told
from service.local.stack import Stack, is_free, open_stack, wait_until_ready
from service.local.summary import summarize
from service.local.supervisor import supervise
from service.local.up import one_line_errors, say
from service.local.zendesk.samples import samples
from service.local.zendesk.stand_in import Zendesk

_DIRECTORY = Path(".holdfast/demo")


def run(port: int | None, data_dir: Path | None) -> None:
    """Play the demo, then stay until Ctrl-C.

    Exits with 1 where an e-mail failed or took too long, with 2 where it cannot start.
    """
    play = Play(samples())
    with one_line_errors():
        if port and not is_free(port):
            raise ServerError(f"port {port} is taken on 127.0.0.1: choose another with --port")
        port = port or (8000 if is_free(8000) else free_port())
        directory = data_dir or _DIRECTORY
        if not data_dir:
            say(f"the demo begins anew in {directory}")
        with (
            interruptible(),
            open_stack(directory, port, _nothing_of_the_users(), say=say, fresh=not data_dir) as stack,
        ):
            run_until_told(lambda hurry: _run(stack, play, hurry))
            say("stopping the servers")
    sys.exit(1 if play.errors or play.count("failed") else 0)


async def _run(stack: Stack, play: Play, hurry: asyncio.Event) -> None:
    console = Console(highlight=False)
    token, secret = stack.settings["API_TOKEN"], stack.settings["ZENDESK_WEBHOOK_SECRETS"]
    async with (
        Zendesk(secret=secret) as zendesk,
        supervise(
            stack.programs(1, to_files=True, more=_account(zendesk)), lambda _who, what: say(what), hurry
        ),
    ):
        await wait_until_ready(stack.url)
        say("web and a worker run\n")
        with open_board(console, len(play.script)) as board:
            await perform(play, stack.url, token, zendesk, board)
        console.print(summarize(stack, play), soft_wrap=True)
        if not play.errors:
            await asyncio.Event().wait()


def _account(zendesk: Zendesk) -> dict[str, str]:
    return {
        "ZENDESK_URL": zendesk.url,
        "ZENDESK_OAUTH_CLIENT_ID": zendesk.client_id,
        "ZENDESK_OAUTH_CLIENT_SECRET": zendesk.client_secret,
    }


def _nothing_of_the_users() -> Mapping[str, str]:
    """Leave the user's settings out: the demo's e-mails must reach no real account, database or storage."""
    return {name: value for name, value in os.environ.items() if name not in environment.names()}
