"""What to do about an error code: its page, the link of every problem, and the pages that show a code."""

import re

import asyncpg
import pytest
from arq.worker import Worker

from service.config.settings import Settings
from service.error_guide import GROUPS
from tests.conftest import Server
from tests.support.commands import terminal, typed
from tests.support.pages import asking, failing, read, words_of

CODES = [advice.code for group in GROUPS for advice in group.advices]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_retries": 0})


async def test_the_page_explains_every_code_to_anybody_and_has_an_anchor_for_each(client: Server) -> None:
    async with client.session.get(f"{client.url}/docs/errors") as response:
        text = await response.text()
        assert (response.status, response.content_type) == (200, "text/html")
        assert "script-src" not in response.headers["Content-Security-Policy"]

    assert re.findall(r'<section class="operation" id="(\w+)"', text) == CODES
    assert set(re.findall(r'href="#(\w+)"', text)) == {*CODES}
    assert "To retry: <code>holdfast failures retry not_found</code>." in text


async def test_a_problem_links_to_what_to_do_about_it(client: Server) -> None:
    expected = {"/api/v1/emails/7": "email_not_found", "/api/v1/emails?cursor=x": "bad_cursor"}
    for path, code in expected.items():
        async with asking(client, path) as response:
            assert (await response.json())["code"] == code
            assert response.headers["Link"] == f'</docs/errors#{code}>; rel="help"'
    async with client.session.get(f"{client.url}/api/v1/emails") as response:
        assert response.status == 401
        assert response.headers["Link"] == '</docs/errors#unauthorized>; rel="help"'
    async with client.session.post(f"{client.url}/webhooks/zendesk", data=b"{}") as response:
        assert response.headers["Link"] == '</docs/errors#signature_missing>; rel="help"'


async def test_below_a_prefix_the_link_has_it(client: Server) -> None:
    prefixed = client.res.settings.model_copy(update={"public_url": "https://tools.example/holdfast"})
    object.__setattr__(client.res, "settings", prefixed)

    async with client.session.get(f"{client.url}/api/v1/emails") as response:
        assert response.headers["Link"] == '</holdfast/docs/errors#unauthorized>; rel="help"'


async def test_a_failed_email_and_its_group_say_what_to_do(client: Server, worker: Worker) -> None:
    await failing(client)

    for path in ("/emails/1", "/failures"):
        page = await read(client, path)
        assert '<a href="/docs/errors#not_found">About this code</a>' in page
        words = words_of(page)
        assert (
            "What to do: Check that the user of the OAuth client can see the ticket. About this code" in words
        )
        places = [
            words.index(part)
            for part in ("The address of a file leads nowhere", "Zendesk answered 404", "What to do:")
        ]
        assert places == sorted(places)


async def test_an_unknown_page_says_nothing_about_zendesk(client: Server) -> None:
    async with asking(client, "/nothing", Accept="text/html") as response:
        words = words_of(await response.text())

    assert response.status == 404
    assert "There is no page at this address." in words
    assert "OAuth" not in words


async def test_a_page_of_an_error_says_what_to_do(client: Server) -> None:
    async with asking(client, "/emails/7", Accept="text/html") as response:
        page = await response.text()

    assert response.status == 404
    assert 'href="/docs/errors#email_not_found"' in page
    assert "Look at holdfast emails list ." in words_of(page)


async def test_commands_say_what_to_do_but_a_pipe_gets_rows_alone(
    settings: Settings, database: asyncpg.Connection
) -> None:
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, idempotency_key, processing_status, attempt_number,"
        " error_code, processing_error, completed_at) VALUES ('1', '1', 'failed', 1, 'redacted', 'It is empty.', now())"
    )

    shown = await typed(settings, "emails", "show", "1")
    piped = await typed(settings, "failures")
    _, screen = await terminal(settings, "failures", columns=200)

    assert "what to do:    Nothing can be fetched." in shown.stdout
    assert len(piped.stdout.splitlines()) == 1
    assert "What to do" in screen
    assert "redacted:" in screen
