"""`holdfast listen` prints every webhook and what became of it, from either side."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from service.config.settings import Settings
from tests.conftest import ROOT, Server, environment
from tests.support import forked
from tests.support.anywhere import keep_login
from tests.support.logins import signed_in
from tests.support.rows import add, add_quarantined_body


@asynccontextmanager
async def listening(variables: dict[str, str], *words: str) -> AsyncIterator[Process]:
    """Run the command; yield it when it listens."""
    process = await forked.create_subprocess_exec(
        sys.executable, "-m", "service", *words, cwd=ROOT, env=variables, stdout=PIPE, stderr=PIPE
    )
    try:
        assert process.stderr
        async with asyncio.timeout(60):
            await process.stderr.readline()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def lines(process: Process, count: int) -> list[str]:
    assert process.stdout
    async with asyncio.timeout(60):
        return [(await process.stdout.readline()).decode().rstrip("\n") for _ in range(count)]


async def without_database(settings: Settings, client: Server, config: Path) -> dict[str, str]:
    await keep_login(config, client.url, await signed_in(client))
    own = {name.upper() for name in Settings.model_fields}
    variables = {name: value for name, value in environment(settings).items() if name not in own}
    return {**variables, "XDG_CONFIG_HOME": str(config)}


@pytest.mark.parametrize("side", ["database", "api"])
async def test_listen_tells_the_fate_of_each_webhook(
    settings: Settings, client: Server, database: asyncpg.Connection, tmp_path: Path, side: str
) -> None:
    old = await add(database, processing_status="completed")
    await add_quarantined_body(database)
    variables = (
        environment(settings) if side == "database" else await without_database(settings, client, tmp_path)
    )
    async with listening(variables, "listen") as process:
        new = await add(database, zendesk_ticket_id="4711", subject="Hi\x1b[2J", idempotency_key="new")
        (arrived,) = await lines(process, 1)
        await database.execute(
            "UPDATE incoming_emails SET processing_status = 'completed', attempt_number = 1, completed_at = now() WHERE id = $1",
            new,
        )
        (completed,) = await lines(process, 1)
        await add(
            database, "announcements", email_id=old, idempotency_key="a", raw_body=b"", raw_headers="[]"
        )
        (further,) = await lines(process, 1)
        await add_quarantined_body(database, b"{", idempotency_key="two")
        (quarantined,) = await lines(process, 1)
        await add(
            database,
            "ignored_webhooks",
            event_type="zen:x",
            idempotency_key="i",
            raw_body=b"",
            raw_headers="[]",
        )
        (ignored,) = await lines(process, 1)
        await database.execute(
            "INSERT INTO alert_watch (id, bad_signatures, bad_signature_code, bad_signature_at)"
            " VALUES (1, 3, 'bad_signature', now()) ON CONFLICT (id) DO UPDATE"
            " SET bad_signatures = 3, bad_signature_code = 'bad_signature', bad_signature_at = now()"
        )
        (refused,) = await lines(process, 1)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0

    assert arrived.endswith(f'UTC webhook: new e-mail {new} of ticket 4711 "Hi\ufffd[2J"')
    assert completed.endswith(f'e-mail {new} ticket 4711 "Hi\ufffd[2J" completed')
    assert f"webhook: further one about e-mail {old} of ticket" in further
    assert "webhook: in quarantine as 2 not_json: " in quarantined
    assert ignored.endswith("webhook: ignored as event 1 zen:x")
    assert refused.endswith("webhook: refused for its signature, 3 in a row bad_signature")


async def test_listen_prints_json_and_outlives_the_server(
    settings: Settings, client: Server, database: asyncpg.Connection, tmp_path: Path
) -> None:
    variables = await without_database(settings, client, tmp_path)
    async with listening(variables, "listen", "--json") as process:
        email_id = await add(database, idempotency_key="new")
        (arrived,) = await lines(process, 1)
        await client.stop()
        assert process.stderr
        complaint = (await process.stderr.readline()).decode()
        assert process.returncode is None

    assert json.loads(arrived)["webhook"]["email_id"] == email_id
    assert complaint.startswith(f"{client.url} ")
    assert complaint.endswith("; still trying.\n")


async def test_tail_over_the_api_prints_changes(
    settings: Settings, client: Server, database: asyncpg.Connection, tmp_path: Path
) -> None:
    variables = await without_database(settings, client, tmp_path)
    email_id = await add(database, zendesk_ticket_id="1")
    process = await forked.create_subprocess_exec(
        sys.executable, "-m", "service", "tail", cwd=ROOT, env=variables, stdout=PIPE, stderr=PIPE
    )
    try:
        (first,) = await lines(process, 1)
        await database.execute(
            "UPDATE incoming_emails SET processing_status = 'failed', error_code = 'gone', attempt_number = 1"
        )
        (second,) = await lines(process, 1)
    finally:
        process.kill()
        await process.communicate()

    assert first.endswith(f"{email_id} ticket 1 received")
    assert second.endswith(f"{email_id} ticket 1 failed gone")
