"""Findings of a reconciliation and numbers of the ledger say what they mean, and have the button that repairs them."""

from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from service.config.settings import Settings
from service.postgres.reconciliation_tables import DIFFERENCES, REMARKS
from service.web.pages.findings import BUTTONS, COMMANDS, SENTENCES
from tests.conftest import Server
from tests.support.api import post_as_operator
from tests.support.pages import asking, press, read, words_of
from tests.support.rows import add, add_findings, add_reconciliation

RUN = "/reconciliations/1"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={
            "sync_url": (SecretStr("http://127.0.0.1:9/hook"),),
            "sync_webhook_secret": (SecretStr("a secret of sixteen"),),
        }
    )


async def finding(database: asyncpg.Connection, kind: str, **columns: Any) -> int:
    """Insert a finding about a completed e-mail with a stored file; return its id."""
    now = await database.fetchval("SELECT now()")
    done = {
        "processing_status": "completed",
        "completed_at": now,
        "sync_status": "synced",
        "attempt_number": 1,
    }
    email_id = await add(database, **done, **columns)
    stored = {"status": "stored", "sha256": "0" * 64, "size": 1, "object_key": "1", "file_name": "a"}
    await add(
        database, "attachments", email_id=email_id, position=0, source_url="https://x.example/a", **stored
    )
    await add_findings(database, await add_reconciliation(database, counts={kind: 1}), kind)
    number: int = await database.fetchval(
        "UPDATE reconciliation_findings SET email_id = $1 RETURNING id", email_id
    )
    return number


def test_each_kind_has_a_sentence_and_each_difference_a_way_to_repair_it() -> None:
    assert set(SENTENCES) == {*DIFFERENCES, *REMARKS}
    assert set(DIFFERENCES) - {"object_unreadable"} == {*BUTTONS, *COMMANDS}
    assert not {*BUTTONS} & {*COMMANDS}


@pytest.mark.parametrize("kind", ["missing", "different", "not_sent"])
async def test_a_document_is_synced_again(client: Server, database: asyncpg.Connection, kind: str) -> None:
    number = await finding(database, kind)
    before = await read(client, RUN)
    await press(client, f"{RUN}/findings/{number}/repair")
    after = await read(client, RUN)
    email = await database.fetchrow("SELECT sync_status, processing_status FROM incoming_emails")
    async with asking(client, f"{RUN}/findings/{number}/repair", form={}) as response:
        assert response.status == 409

    assert SENTENCES[kind] in words_of(before)
    assert f'action="{RUN}/findings/{number}/repair"' in before
    assert f'action="{RUN}/findings/{number}/repair"' not in after
    assert "synced again" in words_of(after)
    assert tuple(email) == ("pending", "completed")


async def test_a_lost_object_is_fetched_again(client: Server, database: asyncpg.Connection) -> None:
    number = await finding(database, "object_missing")
    made = await post_as_operator(client, f"/api/v1/findings/{number}/repair", 202)
    file = await database.fetchval("SELECT status FROM attachments")
    again = await post_as_operator(client, f"/api/v1/findings/{number}/repair", 409)

    assert made == {"repairing": True, "finding_id": number}
    assert (file, again["code"]) == ("pending", "not_open")
    assert "fetched again" in words_of(await read(client, RUN))


@pytest.mark.parametrize("kind", ["extra", "ahead", "object_damaged"])
async def test_what_needs_a_removal_names_the_command(
    client: Server, database: asyncpg.Connection, kind: str
) -> None:
    number = await finding(database, kind)
    page = await read(client, RUN)
    refused = await post_as_operator(client, f"/api/v1/findings/{number}/repair", 409)

    assert COMMANDS[kind] in words_of(page)
    assert f"findings/{number}/repair" not in page
    assert refused["code"] == "not_repairable"
    assert await database.fetchval("SELECT repair FROM reconciliation_findings") is None


async def test_several_documents_have_one_plan(client: Server, database: asyncpg.Connection) -> None:
    now = await database.fetchval("SELECT now()")
    done = {"processing_status": "completed", "completed_at": now, "sync_status": "synced"}
    ids = [await add(database, **done) for _ in range(3)]
    await add_findings(database, await add_reconciliation(database, counts={"missing": 3}), *["missing"] * 3)
    await database.execute("UPDATE reconciliation_findings SET email_id = id")
    page = await read(client, RUN)
    plan = await read(client, f"/retries/plan?what=sync&ids={','.join(map(str, ids))}")

    assert "Sync these 3 e-mails" in page
    assert "Sync 3 e-mails?" in words_of(plan)
