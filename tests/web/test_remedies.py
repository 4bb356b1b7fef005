"""The next step: pages say what happened, what helps, and offer that button first."""

import re

import asyncpg
import pytest

from service.error_guide import advice_on
from service.web.handling.remedies import _REMEDIES, remedy_on
from tests.conftest import Server
from tests.support.pages import read, words_of
from tests.support.rows import add, add_failed, add_many_finished, add_quarantined, add_received

# The title of an error, and the button that is offered first.
_FIRST = {
    "attachment_gone": ("A file was deleted in Zendesk", "Dismiss …"),
    "not_found": ("The address of a file leads nowhere", "Retry"),
    "malware_found": ("Zendesk found malware in a file", "Dismiss …"),
    "credentials_missing": ("Credentials for Zendesk are missing", "Check the credentials"),
    "bad_url": ("The trigger sends an address that is none", "Fix the trigger"),
}


def test_every_title_belongs_to_a_code_of_the_guide() -> None:
    assert [code for code in _REMEDIES if advice_on(code) is None] == []
    assert len({remedy_on(code).title for code in _REMEDIES}) == len(_REMEDIES)


@pytest.mark.parametrize("code", _FIRST)
async def test_each_error_has_its_title_and_its_first_button(
    client: Server, database: asyncpg.Connection, code: str
) -> None:
    email_id = await add_failed(database, "1 hour", code)

    page = await read(client, f"/emails/{email_id}")

    assert (_heading(page), *_primary(page)) == _FIRST[code]
    assert page.index(_FIRST[code][0]) < page.index("What to do:") < page.index(f"<code>{code}</code>")


async def test_a_deleted_ticket_explains_whatever_failed(
    client: Server, database: asyncpg.Connection
) -> None:
    email_id = await add_failed(database, "1 hour", "not_found")
    await database.execute("UPDATE incoming_emails SET zendesk_state = 'deleted'")

    page = await read(client, f"/emails/{email_id}")

    assert _heading(page) == "The ticket was deleted in Zendesk"
    assert _primary(page) == ["Dismiss …"]


async def test_a_broken_template_leads_to_the_trigger(client: Server, database: asyncpg.Connection) -> None:
    number = await add_quarantined(database, "not_json")

    page = await read(client, f"/quarantine/{number}")

    assert _heading(page) == "The trigger's template makes invalid JSON"
    assert _primary(page) == ["Fix the trigger"]


async def test_completed_emails_are_never_offered_for_a_bulk_retry(
    client: Server, database: asyncpg.Connection
) -> None:
    await add_many_finished(database, 2)
    await add_failed(database, "1 hour", "not_found")

    for query in ("status=completed", "ticket=1", "sync_status=synced", ""):
        assert "Retry these" not in await read(client, f"/emails?{query}"), query
    page = await read(client, "/emails?status=failed&error_code=not_found")
    assert _primary(page) == ["Retry these …"]
    assert _heading(page) == "The address of a file leads nowhere"


async def test_the_overview_lists_the_largest_groups_and_how_they_grow(
    client: Server, database: asyncpg.Connection
) -> None:
    for number in range(8):  # the newest groups are the smallest
        for _ in range(8 - number):
            await add_failed(database, f"{30 - number} hours", f"code_{number}")
    await add_failed(database, "1 hour", "code_0")
    await add_received(database, "3 days", "failed", error_code="code_1", error_host="a.example")

    needs = (await read(client, "/")).partition('id="needs"')[2].partition("</section>")[0]

    words = words_of(needs)
    assert re.findall(r"(\d+) failed: Code (\d)", words) == [
        ("9", "0"),
        ("8", "1"),
        ("6", "2"),
        ("5", "3"),
        ("4", "4"),
    ]
    assert "1 in the last 24 hours, 7 fewer than the day before last 1 h ago , first 1 d 6 h ago" in words
    assert "none in the last 24 hours, 7 fewer than the day before" in words
    assert "and 3 more" in words


async def test_a_failed_sync_is_synced_first(client: Server, database: asyncpg.Connection) -> None:
    failed = {"sync_status": "failed", "sync_error_code": "document_refused", "sync_error": "No."}
    email_id = await add(database, processing_status="completed", **failed)

    page = await read(client, f"/emails/{email_id}")

    assert _heading(page) == "The target refuses this document"


def _heading(page: str) -> str:
    return words_of(page.partition(' remedy"')[2].partition("<h2>")[2].partition("</h2>")[0])


def _primary(page: str) -> list[str]:
    return re.findall(r'class="(?:button )?primary"[^>]*>([^<]*)<', page)
