"""`holdfast tail` prints new and changed e-mails until Ctrl-C, also after outages."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from service.config.settings import Settings
from tests.conftest import ROOT, environment
from tests.support import forked
from tests.support.proxy import before_postgres


@asynccontextmanager
async def tailing(settings: Settings, *words: str) -> AsyncIterator[Process]:
    process = await forked.create_subprocess_exec(
        *(sys.executable, "-m", "service", "tail", *words),
        cwd=ROOT,
        env=environment(settings),
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line(process: Process) -> str:
    assert process.stdout
    async with asyncio.timeout(60):
        return (await process.stdout.readline()).decode()


async def complaint(process: Process) -> str:
    assert process.stderr
    async with asyncio.timeout(60):
        return (await process.stderr.readline()).decode()


async def add(database: asyncpg.Connection, ticket: str, status: str = "received") -> None:
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status) VALUES ($1, $2)", ticket, status
    )


async def test_tail_begins_with_the_last_emails_and_prints_new_ones_and_changes(
    settings: Settings, database: asyncpg.Connection
) -> None:
    for ticket in ("one", "two", "three"):
        await add(database, ticket, "completed")
    await database.execute(
        "UPDATE incoming_emails SET subject = E'Hi\\x1b[2J', from_email = 'ann@a.example' WHERE id = 3"
    )

    async with tailing(settings, "--last", "2") as tail:
        first = [await line(tail), await line(tail)]
        await add(database, "\x1b[2J")
        new = await line(tail)
        await database.execute(
            "UPDATE incoming_emails SET processing_status = 'failed', error_code = 'gone' WHERE id = 4"
        )
        changed = await line(tail)
        await database.execute("UPDATE incoming_emails SET processing_status = 'queued' WHERE id = 1")
        again = await line(tail)
        tail.send_signal(signal.SIGINT)
        out, err = await tail.communicate()

    assert [text.split()[3:] for text in first] == [
        ["2", "ticket", "two", "completed"],
        ["3", "ticket", "three", "ann@a.example", '"Hi\ufffd[2J"', "completed"],
    ]
    assert new.split()[3:] == ["4", "ticket", "\ufffd[2J", "received"]
    assert changed.split()[3:] == ["4", "ticket", "\ufffd[2J", "failed", "gone"]
    assert again.split()[3:] == ["1", "ticket", "one", "queued"]
    assert (tail.returncode, out, err) == (0, b"", b"")


async def test_tail_prints_only_matching_emails_as_lines_of_json(
    settings: Settings, database: asyncpg.Connection
) -> None:
    async with tailing(settings, "--status", "failed", "--ticket", "two", "--json") as tail:
        await add(database, "one", "failed")
        await add(database, "two", "completed")
        await add(database, "two", "failed")
        told = json.loads(await line(tail))

    assert (told["id"], told["zendesk_ticket_id"], told["processing_status"]) == (3, "two", "failed")


async def test_tail_outlives_an_outage_of_postgres(settings: Settings, database: asyncpg.Connection) -> None:
    await add(database, "one")
    async with before_postgres(settings) as (proxy, through), tailing(through) as tail:
        before = await line(tail)
        proxy.cut()
        away = await complaint(tail)
        await add(database, "two")
        await proxy.resume()
        back = await complaint(tail)
        after = await line(tail)

    assert "ticket one" in before
    assert away.endswith("; still trying.\n")
    assert back == "Postgres is back.\n"
    assert "ticket two" in after


async def test_tail_prints_the_end_of_a_sync_but_no_waiting_sync(
    settings: Settings, database: asyncpg.Connection
) -> None:
    await add(database, "one", "completed")
    await database.execute("UPDATE incoming_emails SET sync_status = 'pending'")
    async with tailing(settings) as tail:
        first = await line(tail)
        await database.execute(
            "UPDATE incoming_emails SET sync_status = 'synced', synced_at = now() WHERE id = 1"
        )
        synced = await line(tail)
        await database.execute("UPDATE incoming_emails SET sync_status = 'pending' WHERE id = 1")
        await add(database, "two", "completed")
        other = await line(tail)
        await database.execute(
            "UPDATE incoming_emails SET sync_status = 'failed', sync_error_code = 'document_refused' WHERE id = 1"
        )
        failed = await line(tail)

    assert first.split()[3:] == ["1", "ticket", "one", "completed"]
    assert synced.split()[3:] == ["1", "ticket", "one", "synced"]
    assert other.split()[3:] == ["2", "ticket", "two", "completed"]
    assert failed.split()[3:] == ["1", "ticket", "one", "not", "synced", "document_refused"]
