"""The stand-in's exports and lists behave as Zendesk's do: hidden minutes, inclusive starts, display texts, rate limits."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from yarl import URL

from service.local.zendesk.stand_in import Zendesk

AGENT = {"Authorization": aiohttp.encode_basic_auth("agent@acme.example/token", "stand-in-token")}
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
START = int(NOON.timestamp())


class Api:
    """Calls of a stand-in's API, as an agent."""

    def __init__(self, zendesk: Zendesk, session: aiohttp.ClientSession) -> None:
        self.zendesk, self.session = zendesk, session

    async def ask(self, path: str, headers: dict[str, str] | None = AGENT) -> tuple[int, Any, Any]:
        url = path if path.startswith("http") else f"{self.zendesk.url}/api/v2/{path}"
        async with self.session.get(URL(url, encoded=True), headers=headers) as response:
            is_json = response.content_type == "application/json"
            return response.status, response.headers, await (response.json() if is_json else response.read())

    async def events(self, start: int = START, **query: object) -> dict[str, Any]:
        asked = "&".join(f"{name}={value}" for name, value in {"start_time": start, **query}.items())
        status, _, body = await self.ask(f"incremental/ticket_events.json?{asked}")
        assert status == 200, body
        return dict(body)


@pytest.fixture
async def api(zendesk: Zendesk) -> AsyncIterator[Api]:
    async with aiohttp.ClientSession() as session:
        yield Api(zendesk, session)


@pytest.fixture
async def zendesk() -> AsyncIterator[Zendesk]:
    async with Zendesk() as zendesk:
        yield zendesk


async def test_an_audit_has_the_comment_only_with_the_side_load(zendesk: Zendesk, api: Api) -> None:
    logo = zendesk.add_file("logo.png", b"png")
    number = zendesk.add_email(77, inline=[logo], created_at=NOON)

    (bare,) = (await api.events())["ticket_events"]
    (whole,) = (await api.events(include="comment_events"))["ticket_events"]

    (child,) = bare["child_events"]
    assert (child["id"], child["via"], child["comment_present"], "body" in child) == (
        number,
        "Mail",
        True,
        False,
    )
    (child,) = whole["child_events"]
    assert (child["id"], child["via"]["channel"], child["attachments"]) == (number, "email", [])
    assert (whole["via"], whole["ticket_id"], whole["timestamp"]) == ("Mail", 77, START)
    assert whole["system"]["message_id"]


async def test_a_start_is_inclusive_and_pages_overlap(zendesk: Zendesk, api: Api) -> None:
    for seconds in (0, 1, 1, 2):
        zendesk.add_email(77, created_at=NOON + timedelta(seconds=seconds))

    first = await api.events(per_page=2)
    second = await api.events(first["end_time"], per_page=1_000)
    none = await api.events(START + 3)

    assert (first["count"], first["end_time"], first["end_of_stream"]) == (2, START + 1, False)
    assert (second["count"], second["end_time"], second["end_of_stream"]) == (3, START + 2, True)
    assert (none["count"], none["end_time"], none["end_of_stream"]) == (0, START + 3, True)
    assert f"start_time={START + 1}" in first["next_page"]


async def test_a_second_with_more_than_a_page_never_ends(zendesk: Zendesk, api: Api) -> None:
    for _ in range(3):
        zendesk.add_email(77, created_at=NOON)

    page = await api.events(per_page=2)

    assert (page["end_time"], page["end_of_stream"]) == (START, False)


async def test_the_last_minute_is_hidden_and_no_start(zendesk: Zendesk, api: Api) -> None:
    zendesk.add_email(77)
    now = int(datetime.now(UTC).timestamp())

    hidden = await api.events(now - 300)
    status, _, _ = await api.ask(f"incremental/ticket_events.json?start_time={now}")
    zendesk.state.listings.hidden_seconds = 0
    shown = await api.events(now - 300)

    assert (hidden["count"], status, shown["count"]) == (0, 422, 1)


async def test_exports_have_a_rate_limit_of_their_own(zendesk: Zendesk, api: Api) -> None:
    for _ in range(10):
        await api.events()

    status, headers, _ = await api.ask(f"incremental/ticket_events.json?start_time={START}")
    other, _, _ = await api.ask("tickets.json")
    zendesk.state.listings.end_minute()
    await api.events()

    assert (status, other) == (429, 200)
    assert 0 < int(headers["Retry-After"]) <= 60


async def test_an_export_that_is_closed_slow_or_without_an_end(zendesk: Zendesk, api: Api) -> None:
    listings = zendesk.state.listings
    listings.times_out_above = 100
    slow, _, _ = await api.ask(f"incremental/ticket_events.json?start_time={START}&per_page=101")
    listings.has_end_time = False
    empty = await api.events(per_page=100)
    listings.closed = 410
    closed, _, _ = await api.ask(f"incremental/ticket_events.json?start_time={START}")
    stranger, _, _ = await api.ask(f"incremental/ticket_events.json?start_time={START}", None)

    assert (slow, empty["end_time"], closed, stranger) == (504, None, 410, 401)


async def test_tickets_are_listed_by_their_last_change(zendesk: Zendesk, api: Api) -> None:
    for number in range(1, 151):
        zendesk.add_email(number, created_at=NOON + timedelta(seconds=number))
    zendesk.add_email(1, created_at=NOON + timedelta(days=1))

    _, _, first = await api.ask("tickets.json?sort=-updated_at&page[size]=100")
    _, _, second = await api.ask(first["links"]["next"])
    wrong, _, _ = await api.ask("tickets.json?sort=-updated_at&page[after]=abc")
    zendesk.state.listings.dead_cursors = 1
    dead, _, _ = await api.ask(first["links"]["next"])

    ids = [ticket["id"] for ticket in first["tickets"] + second["tickets"]]
    assert ids == [1, *range(150, 1, -1)]
    assert (first["meta"]["has_more"], second["meta"]["has_more"]) == (True, False)
    assert (wrong, dead) == (400, 400)


async def test_a_deleted_ticket_is_in_its_own_list_alone(zendesk: Zendesk, api: Api) -> None:
    zendesk.add_email(77, created_at=NOON)
    zendesk.delete_ticket(77)

    _, _, deleted = await api.ask("deleted_tickets.json")
    _, _, tickets = await api.ask("tickets.json")
    gone, _, _ = await api.ask("tickets/77/comments.json")
    zendesk.restore_ticket(77)
    back, _, _ = await api.ask("tickets/77/comments.json")
    events = (await api.events())["ticket_events"]

    assert [ticket["id"] for ticket in deleted["deleted_tickets"]] == [77]
    assert (tickets["tickets"], gone, back) == ([], 404, 200)
    assert [event["child_events"][0].get("status") for event in events] == [None]
    zendesk.state.listings.hidden_seconds = 0
    statuses = [event["child_events"][0].get("status") for event in (await api.events())["ticket_events"]]
    assert statuses == [None, "deleted", "open"]


async def test_redactions_are_events_of_their_own(zendesk: Zendesk, api: Api) -> None:
    zendesk.state.listings.hidden_seconds = 0
    file = zendesk.add_file("a.pdf", b"pdf")
    number = zendesk.add_email(77, text="4711", attachments=[file], created_at=NOON)

    zendesk.state.redact_text(number, "4711")
    zendesk.state.redact(file)
    zendesk.state.make_private(number)
    children = [event["child_events"][0] for event in (await api.events())["ticket_events"][1:]]

    assert [child["event_type"] for child in children] == [
        "CommentRedactionEvent",
        "AttachmentRedactionEvent",
        "CommentPrivacyChange",
    ]
    assert {child["comment_id"] for child in children} == {number}


@pytest.mark.parametrize("offset_pages", [True, False])
async def test_suspended_e_mails_are_listed_until_they_are_recovered(
    zendesk: Zendesk, api: Api, *, offset_pages: bool
) -> None:
    zendesk.state.listings.offset_pages = offset_pages
    numbers = [zendesk.suspend() for _ in range(101)]
    item = zendesk.state.listings.suspended[numbers[0]]

    _, _, first = await api.ask("suspended_tickets.json")
    following = first["next_page"] if offset_pages else first["links"]["next"]
    _, _, second = await api.ask(following)
    comment_id = zendesk.recover(numbers[0], 77)
    (comment,) = zendesk.state.comments["77"]

    listed = [each["id"] for each in first["suspended_tickets"] + second["suspended_tickets"]]
    assert sorted(listed) == numbers
    assert numbers[0] not in zendesk.state.listings.suspended
    assert comment["id"] == comment_id
    metadata = comment["metadata"]
    assert isinstance(metadata, dict)
    assert metadata["system"]["message_id"] == item["message_id"]
