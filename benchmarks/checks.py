"""Check rows and files after each load, so that no service is fast by losing work."""

import asyncio
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks import stand_in
from benchmarks.testbed import MeasurementError, Testbed, last_output
from benchmarks.webhooks import BODY_BYTES

_SETTLE_SECONDS = 0.3
_TIMEOUT_SECONDS = 600
_POLL_SECONDS = 0.1


async def fetch_row(testbed: Testbed, name: str, query: str, *values: object) -> Any:  # noqa: ANN401 a column of any type
    """Return one row of a service's database."""
    connection = await asyncpg.connect(testbed.database(name))
    try:
        return await connection.fetchrow(query, *values)
    finally:
        await connection.close()


async def wait_until(testbed: Testbed, name: str, worker: Process, condition: str) -> None:
    """Wait until the e-mails meet an SQL condition. Raises MeasurementError if the worker ends."""
    connection = await asyncpg.connect(testbed.database(name))
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            while not await connection.fetchval(f"SELECT {condition} FROM incoming_emails"):  # noqa: S608 ours
                if worker.returncode is not None:
                    raise MeasurementError(f"a worker ended: {last_output(testbed, f'{name}.worker')}")
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise MeasurementError(f"{name} did not reach {condition} within {_TIMEOUT_SECONDS} s") from None
    finally:
        await connection.close()


async def check_record(testbed: Testbed, name: str, acknowledged: int, under_way: int) -> None:
    """Compare the acknowledged webhooks with the saved ones; `under_way` more may be saved without an answer."""
    query = "SELECT count(DISTINCT zendesk_ticket_id) FROM incoming_emails WHERE length(raw_body) = $1"
    (rows,) = await fetch_row(testbed, name, query, BODY_BYTES)
    if not acknowledged <= rows <= acknowledged + under_way:
        raise MeasurementError(f"{name} acknowledged {acknowledged} webhooks and saved {rows}")


async def settle(testbed: Testbed, name: str) -> None:
    """Wait until no more rows appear: when wrk stops, requests are still under way."""
    rows = before = -1
    while rows != before or rows < 0:
        before = rows
        (rows,) = await fetch_row(testbed, name, "SELECT count(*) FROM incoming_emails")
        await asyncio.sleep(_SETTLE_SECONDS)


async def check_work(testbed: Testbed, name: str, count: int, file_bytes: int) -> None:
    """Check that every e-mail is completed, and every file stored with the served bytes."""
    query = (
        "SELECT (SELECT count(*) FROM incoming_emails WHERE processing_status = 'completed'),"
        " (SELECT count(*) FROM attachments WHERE status = 'stored')"
    )
    completed, stored = await fetch_row(testbed, name, query)
    if (completed, stored) != (count, count):
        raise MeasurementError(f"{name} completed {completed} of {count} e-mails and stored {stored} files")
    await asyncio.to_thread(check_files, testbed.files, name, count, file_bytes)


def check_files(directory: Path, name: str, count: int, file_bytes: int) -> None:
    """Read all files; each number must occur once, with the served bytes."""
    _, *blocks = stand_in.content(0, file_bytes)
    numbers = []
    for path in directory.rglob("*"):
        if path.is_file() and "heads" not in path.parts:  # of the evidence log
            with path.open("rb") as file:
                numbers.append(int(file.read(stand_in.HEAD_BYTES)))
                if any(file.read(len(block)) != block for block in blocks) or file.read(1):
                    raise MeasurementError(f"{name} has {path.name} with other bytes than the server sent")
    if sorted(numbers) != list(range(count)):
        raise MeasurementError(f"{name} has {len(set(numbers))} of {count} files")
