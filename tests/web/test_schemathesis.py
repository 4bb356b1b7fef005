"""Requests generated from the description get answers that conform to it."""

import asyncio
import re
import sys
from pathlib import Path

import asyncpg
import pytest

from service.resources import Resources
from tests.conftest import API_TOKEN, Server
from tests.support.examples import examples
from tests.support.files import add_file
from tests.support.rows import add, add_quarantined_body


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_running_server_conforms_to_its_description(
    client: Server, database: asyncpg.Connection, res: Resources, tmp_path: Path
) -> None:
    await add_file(database, res, b"content")
    for status in ("received", "queued", "processing", "failed"):
        await add(database, processing_status=status, attachment_urls='["https://acme.zendesk.com/a"]')
    await add_quarantined_body(database)
    await add_quarantined_body(database, b"{", idempotency_key="two", raw_headers=r'[["X-Other", "\udcff"]]')
    command = [
        "-m",
        "schemathesis.cli",
        "run",
        f"{client.url}/openapi.json",
        "--header",
        f"Authorization: Bearer {API_TOKEN}",
    ]
    bounds = ["--max-examples", str(examples(3)), "--seed", "1", "--generation-deterministic", "--no-shrink"]

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command, *bounds, "--no-color"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told = (await process.communicate())[0].decode()

    assert process.returncode == 0, told
    (selected, operations), (tested,) = (
        re.findall(r"Selected: (\d+)/(\d+)", told)[0],
        re.findall(r"Tested: (\d+)", told),
    )
    assert selected == operations == tested
    assert re.search(r"(\d{3,}) generated, \1 passed", told)
