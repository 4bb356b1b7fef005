"""A command whose output cannot be written says so, whichever it is."""

import asyncio
from pathlib import Path

import pytest

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from tests.conftest import ROOT, Client, environment
from tests.support import forked

COMMANDS = [
    ("--help",),
    ("--version",),
    ("status",),
    ("status", "--json"),
    ("status", "--help"),
    ("emails", "list"),
    ("emails", "list", "--json"),
    ("emails", "export"),
    ("erasures", "copy"),
    ("evidence", "status"),
    ("completion", "bash"),
]


def on_a_full_disk(words: tuple[str, ...], variables: dict[str, str], errors: Path) -> tuple[int | None, str]:
    with Path("/dev/full").open("wb") as full, errors.open("wb") as said:
        process = forked.start(["service", *words], variables, ROOT, [0, full.fileno(), said.fileno()])
    process.join(60)
    return process.exitcode, errors.read_text()


@pytest.mark.parametrize("words", COMMANDS)
async def test_a_full_disk_is_named(
    words: tuple[str, ...],
    client: Client,
    zendesk: Zendesk,
    settings: Settings,
    tmp_path: Path,
) -> None:
    await client.send(zendesk.payload())

    done = await asyncio.to_thread(on_a_full_disk, words, environment(settings), tmp_path / "errors")

    assert done == (1, "Error: cannot write the output: No space left on device\n")
