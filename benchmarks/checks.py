"""What has to be true after a load: rows in Postgres, files on disk, and in them the bytes that were served."""

import asyncio
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks import stand_in
from benchmarks.ground import Broken, Ground, read_words
from benchmarks.webhooks import BODY_BYTES

_SETTLE_SECONDS = 0.3
_PATIENCE_SECONDS = 600
_LOOK_SECONDS = 0.1


async def fetch_row(ground: Ground, name: str, query: str, *values: object) -> Any:  # noqa: ANN401 columns are anything
    """Ask a contender's database for one row."""
    connection = await asyncpg.connect(ground.database(name))
    try:
        return await connection.fetchrow(query, *values)
    finally:
        await connection.close()


async def until(ground: Ground, name: str, worker: Process, condition: str) -> None:
    """Wait for the e-mails to be as the condition says, while the worker lives."""
    connection = await asyncpg.connect(ground.database(name))
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not await connection.fetchval(f"SELECT {condition} FROM incoming_emails"):  # noqa: S608 ours
                if worker.returncode is not None:
                    raise Broken(f"a worker ended: {read_words(ground, f'{name}.worker')}")
                await asyncio.sleep(_LOOK_SECONDS)
    except TimeoutError:
        raise Broken(f"{name} never came to {condition}") from None
    finally:
        await connection.close()


async def check_record(ground: Ground, name: str, acknowledged: int, under_way: int) -> None:
    """Compare what was acknowledged with what is on record; `under_way` more may be, of which nobody heard."""
    query = "SELECT count(DISTINCT zendesk_ticket_id) FROM incoming_emails WHERE length(raw_body) = $1"
    (rows,) = await fetch_row(ground, name, query, BODY_BYTES)
    if not acknowledged <= rows <= acknowledged + under_way:
        raise Broken(f"{name} acknowledged {acknowledged} webhooks and has {rows} on record")


async def settle(ground: Ground, name: str) -> None:
    """Wait until no more is put on record: where wrk stops, requests are still under way."""
    rows = before = -1
    while rows != before or rows < 0:
        before = rows
        (rows,) = await fetch_row(ground, name, "SELECT count(*) FROM incoming_emails")
        await asyncio.sleep(_SETTLE_SECONDS)


async def check_work(ground: Ground, name: str, count: int, file_bytes: int) -> None:
    """Look for every e-mail completed, every file stored, and the right bytes in each."""
    query = (
        "SELECT (SELECT count(*) FROM incoming_emails WHERE processing_status = 'completed'),"
        " (SELECT count(*) FROM attachments WHERE status = 'stored')"
    )
    completed, stored = await fetch_row(ground, name, query)
    if (completed, stored) != (count, count):
        raise Broken(f"{name} completed {completed} of {count} e-mails and stored {stored} files")
    await asyncio.to_thread(check_files, ground.files, name, count, file_bytes)


def check_files(directory: Path, name: str, count: int, file_bytes: int) -> None:
    """Read every file there is; each number has to be there once."""
    _, *blocks = stand_in.content(0, file_bytes)
    numbers = []
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                numbers.append(int(file.read(stand_in.HEAD_BYTES)))
                if any(file.read(len(block)) != block for block in blocks) or file.read(1):
                    raise Broken(f"{name} has {path.name} with other bytes than were served")
    if sorted(numbers) != list(range(count)):
        raise Broken(f"{name} has {len(set(numbers))} of {count} files")
