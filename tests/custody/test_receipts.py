"""A purge by command, and its receipt: the API, the command and the pages tell the same."""

import asyncio
import json
from pathlib import Path

import asyncpg
import pytest

from service.config.settings import Settings
from service.custody import erasure, receipts
from service.custody.scopes import scope_of
from service.queries.receipts import get_receipt
from service.resources import Resources
from tests.conftest import Server
from tests.custody.test_holds import add_hold
from tests.custody.test_purge import add_emails, add_rule, digest, ids
from tests.support.commands import typed
from tests.support.pages import read
from tests.support.removing import content, download, is_there, put, record, remove_object_files


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"retention_floor_days": 0, "purge_per_second": 10_000})


async def test_a_purge_by_command_has_one_receipt_everywhere(
    settings: Settings, client: Server, database: asyncpg.Connection, tmp_path: Path
) -> None:
    await asyncio.to_thread((tmp_path / "objects" / ".spool").mkdir, parents=True)  # objects were stored
    await add_rule(database)
    old = await add_emails(database, 4)
    await add_hold(database, "case", None, old[3])

    planned = await typed(settings, "purge", "--dry-run", "--json")
    refused = await typed(settings, "purge")
    untouched = await ids(database)
    done = await typed(settings, "purge", "--yes", "--json")
    shown, listed = await typed(settings, "receipts", "show", "1"), await typed(settings, "receipts", "list")

    assert json.loads(planned.stdout)["emails"] == 3
    assert (refused.returncode, untouched, await ids(database)) == (2, old, [old[3]])
    receipt = await client.get("/api/v1/receipts/1")
    assert json.loads(done.stdout) == receipt == (await client.get("/api/v1/receipts"))["receipts"][0]
    wanted = digest(
        [f"key 31 {number}" for number in range(3)], [content(f"file {number}") for number in range(3)]
    )
    assert (receipt["emails"], receipt["rules"], receipt["digest"]) == (3, {"old": 3}, wanted)
    assert (receipt["objects"], receipt["objects_waiting"], receipt["objects_kept"]) == (3, 3, 0)
    assert wanted in shown.stdout
    assert listed.stdout.split("\t")[:3] == ["1", "purge", "done"]
    assert wanted in await read(client, "/receipts/1")
    assert 'href="/receipts/1"' in await read(client, "/receipts")
    await put(client.res, b"a storage with an object")
    await remove_object_files(client.res, database)
    after = await client.get("/api/v1/receipts/1")
    assert (after["objects_removed"], after["objects_waiting"], after["objects_kept"]) == (2, 0, 1)


async def test_a_page_of_receipts_leads_to_the_next_and_a_wrong_number_is_not_found(
    settings: Settings, client: Server, database: asyncpg.Connection
) -> None:
    for _ in range(3):
        await client.res.run(lambda conn: receipts.begin(conn, "erasure", "tests", "She <b>asked</b>."))

    first = await client.get("/api/v1/receipts?limit=2")
    second = await client.get(f"/api/v1/receipts?limit=2&cursor={first['next_cursor']}")
    missing = await typed(settings, "receipts", "show", "9")

    assert [each["id"] for page in (first, second) for each in page["receipts"]] == [3, 2, 1]
    assert (await client.get("/api/v1/receipts/9", 404))["code"] == "receipt_not_found"
    assert (missing.returncode, "receipts list" in missing.stderr) == (1, True)
    assert "She &lt;b&gt;asked&lt;/b&gt;." in await read(client, "/receipts")


async def test_nothing_due_is_said(settings: Settings, client: Server, database: asyncpg.Connection) -> None:
    done = await typed(settings, "purge", "--yes")

    assert (done.returncode, done.stdout) == (0, "0 e-mails would be deleted now.\n")


async def test_a_file_that_comes_again_after_its_erasure_changes_no_receipt(
    res: Resources, database: asyncpg.Connection
) -> None:
    """Each time, its object is removed again. The receipt is about what was erased then."""
    first = await download(res, database, b"a file")
    await record(res, first)
    erasure_id = await erasure.start(res, scope_of({"file": first.stored.sha256}), "Asked for.", "ada")
    assert (await erasure.run(res, erasure_id)).status == "done"
    await remove_object_files(res, database)
    before = await get_receipt(res.engine, 1)

    again = await download(res, database, b"a file")
    await record(res, again)
    meanwhile = await get_receipt(res.engine, 1)
    await remove_object_files(res, database)

    assert (before.objects, before.objects_removed) == (1, 1)
    assert meanwhile == before == await get_receipt(res.engine, 1)
    assert not await is_there(res, again.stored.key)
