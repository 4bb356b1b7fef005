"""The page of an e-mail begins with its message: people, text, HTML in a frame, files, and its ticket."""

import json
import re
from html import unescape
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from service.storage import objects
from service.web.pages.message import FRAME_POLICY, MOST_PEOPLE, linked
from tests.conftest import API_TOKEN, Server, serving
from tests.support.access import READ_TOKEN
from tests.support.messages import ORIGINAL, PNG, add_message, announce, attach
from tests.support.pages import HOSTILE, asking, read, words_of
from tests.support.rows import add

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # three emoji with joiners
PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"  # with a zero-width non-joiner
HEBREW = "\u200f\u05e9\u05dc\u05d5\u05dd\u200f"  # with marks of direction
WALES = "\U0001f3f4\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f"  # a flag of tags


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"api_read_token": SecretStr(READ_TOKEN)})


async def add_email(database: asyncpg.Connection, **columns: Any) -> int:
    return await add(database, **{"processing_status": "completed", **columns})


def letter_of(page: str) -> str:
    """Return the part of a page that shows the message."""
    return page.partition('aria-labelledby="message"')[2].partition("</section>")[0]


async def test_page_begins_with_people_date_and_text(
    client: Server, database: asyncpg.Connection, res: Resources
) -> None:
    await add_email(database)
    await add_message(database, res, 1, "Dear all,\nthe invoice is attached.", subject="Invoice 17")

    page = words_of(await read(client, "/emails/1"))

    places = [
        page.index(part)
        for part in (
            "Invoice 17",
            "From Ann <ann@customer.example>",
            "To Acme <support@acme.example>",
            "Cc bob@customer.example",
            "Date 3 Nov 2025, 12:00:00 UTC",
            "Dear all, the invoice is attached.",
            "Files 0",
            "History",
            "Job",
            "Original webhook",
        )
    ]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("status", "words"), [("queued", "of this message yet."), ("completed", "has no text")]
)
async def test_page_says_that_nothing_is_known(
    client: Server, database: asyncpg.Connection, status: str, words: str
) -> None:
    await add_email(database, processing_status=status)

    assert words in words_of(letter_of(await read(client, "/emails/1")))


async def test_message_of_a_webhook_says_that_it_is_not_from_zendesk(
    client: Server, database: asyncpg.Connection
) -> None:
    body = json.dumps({"ticket_id": 1, "body_text": "Hello."}).encode()
    await add_email(database, from_name="Ann", raw_body=body, raw_headers="[]", processing_status="queued")

    words = words_of(letter_of(await read(client, "/emails/1")))

    assert "From Ann" in words
    assert "As the webhook tells it: not fetched from Zendesk yet Hello." in words


@pytest.mark.parametrize("text", [FAMILY, PERSIAN, HEBREW, WALES, "\u2067a\u2069", "e\u0301\ufe0f"])
async def test_people_subject_and_text_are_shown_as_written_and_isolated(
    client: Server, database: asyncpg.Connection, res: Resources, text: str
) -> None:
    await add_email(database)
    people = [{"name": text, "address": f"{text}@a.example"}]
    await add_message(
        database, res, 1, f"1 {text}", subject=f"2 {text}", from_name=f"3 {text}", to=people, cc=people
    )

    page, emails = await read(client, "/emails/1"), await read(client, "/emails")

    for part in (f"2 {text}", f"3 {text}", text):
        assert f"<bdi>{part}</bdi>" in page
    assert page.count(f'<bdi class="address">&lt;{text}@a.example&gt;</bdi>') == 2
    assert f'<div class="said">1 {text}</div>' in page
    assert f"<bdi>2 {text}</bdi>" in emails
    assert f"<bdi>3 {text}</bdi>" in emails
    assert "\ufffd" not in page + emails


async def test_overrides_and_control_characters_are_shown_as_such_and_file_names_strictly(
    client: Server, database: asyncpg.Connection, res: Resources
) -> None:
    await add_email(database)
    await attach(database, res, 1, 0, name=f"\u202egnp{FAMILY}.exe")
    await add_message(database, res, 1, HOSTILE, subject=HOSTILE, from_name=HOSTILE, from_address=HOSTILE)

    page = await read(client, "/emails/1")

    assert "<img src=x" not in page
    assert "\u202e" not in page
    assert "\x07" not in page
    assert unescape(page).count("\ufffdgnp.<script>alert(1)</script>") >= 4
    assert "\ufffdgnp\U0001f468\ufffd\U0001f469\ufffd\U0001f467.exe" in page


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("see https://a.example/x?a=1&b=2.", ("https://a.example/x?a=1&amp;b=2", ".")),
        ("(HTTP://A.example/(b))", ("HTTP://A.example/(b", "))")),
        ('https://a.example/"onclick=alert(1)', ("https://a.example/", "&#34;onclick=alert(1)")),
        ("https://a.example/\u202ecod.exe", ("https://a.example/\ufffdcod.exe", "")),
        ("https://a.example/<b>", ("https://a.example/", "&lt;b&gt;")),
    ],
)
def test_addresses_in_a_text_are_links_that_tell_nothing(text: str, html: tuple[str, str]) -> None:
    address, behind = html

    assert linked(text).endswith(
        f'<a href="{address}" target="_blank" rel="noopener noreferrer nofollow">{address}</a>{behind}'
    )


@pytest.mark.parametrize(
    "text", ["javascript:alert(1)", "/emails/1", "data:text/html,x", "https://", "xhttps"]
)
def test_nothing_else_is_a_link(text: str) -> None:
    assert linked(text) == text


async def test_long_text_is_cut_with_a_link_to_all_of_it(
    client: Server, database: asyncpg.Connection, res: Resources
) -> None:
    await add_email(database)
    await add_message(database, res, 1, "word " * 20_000)

    letter = letter_of(await read(client, "/emails/1"))

    assert "Only the start of the text is shown. Show all of it (100 kB)." in words_of(letter).replace(
        " (", " ("
    )
    assert 'href="/api/v1/emails/1/message.txt"' in letter


async def test_many_recipients_are_counted_and_long_names_cut(
    client: Server, database: asyncpg.Connection, res: Resources
) -> None:
    await add_email(database)
    people = [{"name": "n" * 1000, "address": f"{number}@a.example"} for number in range(40)]
    await add_message(database, res, 1, to=people, cc=people)

    letter = letter_of(await read(client, "/emails/1"))

    assert letter.count('class="person"') == 1 + MOST_PEOPLE
    assert f"and {80 - MOST_PEOPLE} more" in words_of(letter)
    assert "n" * 301 not in letter


async def test_internal_note_of_an_agent_is_marked(
    client: Server, database: asyncpg.Connection, res: Resources
) -> None:
    await add_email(database)
    await add_message(database, res, 1, direction="outbound", public=False)

    words = words_of(letter_of(await read(client, "/emails/1")))

    assert "Written by an agent" in words
    assert "the customer does not see it" in words


async def test_html_is_shown_in_a_frame_and_the_text_on_request(
    client: Server, database: asyncpg.Connection, res: Resources
) -> None:
    await add_email(database)
    await add_message(database, res, 1, "As text", html="<p>As HTML", original=ORIGINAL)

    framed, as_text = await read(client, "/emails/1"), await read(client, "/emails/1?view=text")

    assert re.search(r'<iframe [^>]*src="/emails/1/message.html"[^>]* sandbox="([^"]*)"', framed)
    assert "allow-scripts" not in framed
    assert "As text" not in framed
    assert "<iframe" not in as_text
    assert "As text" in as_text
    assert 'hx-get="/emails/1?view=text"' in as_text
    for name in ("message.txt", "original.eml", "record.json", "archive.zip"):
        assert f'href="/api/v1/emails/1/{name}"' in framed


@pytest.mark.parametrize("token", [API_TOKEN, READ_TOKEN])
async def test_frame_is_harmless_and_has_our_copies_of_images(
    client: Server, database: asyncpg.Connection, res: Resources, token: str
) -> None:
    await add_email(database)
    url = await attach(database, res, 1, 0)
    html = f'<p>Hello<script>x</script><img src="{url}" alt="Logo"><img src="https://tracker.example/a.gif">'
    await add_message(database, res, 1, html=html)

    async with asking(client, "/emails/1/message.html", token=token) as response:
        page, headers = await response.text(), response.headers

    assert response.status == 200
    assert headers["Content-Security-Policy"] == FRAME_POLICY
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "no-store" in headers["Cache-Control"]
    assert re.findall(r' src="([^"]*)"', page) == ["/emails/1/attachments/0/preview"]
    assert "<script" not in page
    assert "tracker.example" not in page


async def test_frame_needs_a_sign_in_and_html(
    client: Server, database: asyncpg.Connection, res: Resources
) -> None:
    await add_email(database)
    await add_message(database, res, 1)

    async with asking(client, "/emails/1/message.html", token="wrong") as response:
        assert response.status == 303
    for path in ("/emails/1/message.html", "/emails/2/message.html"):
        await read(client, path, status=404)


async def test_frame_says_why_a_message_cannot_be_shown(
    client: Server, database: asyncpg.Connection, res: Resources
) -> None:
    await add_email(database)
    await add_message(database, res, 1, html="<p>a")
    await objects.remove(res.storage, await database.fetchval("SELECT record_key FROM messages"))

    async with asking(client, "/emails/1/message.html") as response:
        page = await response.text()

    assert response.status == 500
    assert "X-Frame-Options" not in response.headers
    assert response.headers["Content-Security-Policy"] == FRAME_POLICY
    assert "The formatted message cannot be shown" in page


async def test_paths_of_message_and_images_have_the_prefix(
    settings: Settings, zendesk: Zendesk, database: asyncpg.Connection, res: Resources
) -> None:
    await add_email(database)
    url = await attach(database, res, 1, 0)
    await add_message(database, res, 1, html=f'<img src="{url}"><a href="/emails">x</a>')
    at_prefix = settings.model_copy(update={"public_url": "https://acme.example/holdfast"})
    async with serving(at_prefix, zendesk) as client:
        page = await read(client, "/holdfast/emails/1")
        frame = await read(client, "/holdfast/emails/1/message.html")

    paths = re.findall(r'\s(?:href|src|action)="(/[^"]*)"', page)
    assert "/holdfast/emails/1/message.html" in paths
    assert "/holdfast/api/v1/emails/1/archive.zip" in paths
    assert all(re.match("/holdfast/(?!holdfast)", path) for path in paths)
    assert re.findall(r'(?:src|href)="([^"]*)"', frame) == ["/holdfast/emails/1/attachments/0/preview"]


async def test_page_leads_to_the_emails_before_and_after(
    client: Server, database: asyncpg.Connection
) -> None:
    for _ in range(3):
        await add_email(database)

    links = [
        re.findall(r'href="/emails/(\d)" rel="(\w+)"', await read(client, f"/emails/{n}")) for n in (1, 2, 3)
    ]

    assert links == [[("2", "prev")], [("3", "prev"), ("1", "next")], [("2", "next")]]


async def test_other_emails_of_the_ticket_are_listed_newest_first(
    client: Server, database: asyncpg.Connection, res: Resources
) -> None:
    for ticket, account in (("7", "1"), ("7", "1"), ("7", "2"), ("8", "1"), ("7", "1")):
        await add_email(database, zendesk_ticket_id=ticket, account_id=account, from_name="Webhook")
    await add_message(database, res, 1, "First", sent_at=None)
    await add_message(database, res, 2, "Answer", direction="outbound", from_name="Tom")
    await attach(database, res, 2, 0)

    thread = (await read(client, "/emails/2")).partition('class="thread"')[2].partition("</ol>")[0]

    assert re.findall(r'href="/emails/(\d)"', thread) == ["5", "1", "2"]  # of its account, by date
    assert re.search(r'<li class="this">\s*<a href="/emails/2" aria-current="true">', thread)
    assert "agent Answer 1 file" in words_of(thread)
    assert "Webhook" in words_of(thread)
    assert "thread" not in await read(client, "/emails/4")


async def test_further_webhooks_and_malware_are_shown(
    client: Server, database: asyncpg.Connection, res: Resources
) -> None:
    await add_email(database)
    await attach(database, res, 1, 0, PNG, malware="malware_found", inline=True)
    number = await announce(database, 1, invocation_id="the-second", late=True)

    page = await read(client, "/emails/1")

    assert "Zendesk found malware in this file." in words_of(page)
    assert "in the text" in words_of(page)
    assert "Original webhook and 1 more about this e-mail" in words_of(page)
    assert "the-second late 2 B" in words_of(page)
    assert f'href="/api/v1/emails/1/announcements/{number}"' in page


async def test_lists_have_subject_sender_and_date_of_the_message(
    client: Server, database: asyncpg.Connection, res: Resources
) -> None:
    await add_email(database, subject="Old", from_name="Bot", from_email="bot@acme.example")
    await add_message(database, res, 1, subject="Invoice 17")

    row = (await read(client, "/emails")).partition('id="email-1"')[2].partition("</tr>")[0]

    assert "Invoice 17" in row
    assert '<td class="from" title="ann@customer.example"><bdi>Ann</bdi></td>' in row
    assert '<time datetime="2025-11-03T12:00:00+00:00"' in row
