"""The demo sends e-mails as Zendesk would, and follows them by the lines of `holdfast tail --json`."""

from collections import Counter
from datetime import UTC, datetime

import pytest
from aiohttp import ClientSession, encode_basic_auth

from service.local.demo import Demo, add_sample, show
from service.local.zendesk.samples import samples
from service.local.zendesk.stand_in import Zendesk
from service.queries.changes import Change
from service.zendesk.messages import CommentMessage, read_page

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def line(email_id: int, status: str, error: str | None = None) -> str:
    """Return a line of `holdfast tail --json`."""
    change = Change(
        id=email_id,
        at=NOON,
        zendesk_ticket_id="48101",
        processing_status=status,
        attempt_number=1,
        retry_count=0,
        error_code="busy" if error else None,
        processing_error=error,
        sync_status="not_applicable",
        sync_due_at=NOON,
        sync_error_code=None,
        sync_error=None,
        synced_at=None,
        matches=True,
    )
    return change.model_dump_json()


def test_the_demo_counts_the_states_of_accepted_e_mails() -> None:
    demo = Demo(accepted={1, 2, 3})
    for email_id, status in ((1, "processing"), (1, "completed"), (2, "failed"), (9, "completed")):
        show(demo, "tail", line(email_id, status))

    assert (demo.count("completed"), demo.count("failed"), demo.unfinished) == (1, 1, 1)


@pytest.mark.parametrize(
    ("status", "ending"),
    [("queued", "queued  127.0.0.1 answered 503\n"), ("processing", "processing\n")],
)
def test_the_reason_of_a_retry_is_shown_while_the_e_mail_waits(
    status: str, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show(Demo(), "tail", line(4, status, "127.0.0.1 answered 503"))

    assert capsys.readouterr().out.endswith(f"e-mail 4   ticket 48101  {ending}")


@pytest.mark.parametrize("name", ["tail", "supervisor"])
def test_other_lines_are_printed_unchanged(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    demo = Demo()
    show(demo, name, "Postgres does not answer; still trying.")

    assert capsys.readouterr().out == "holdfast  │ Postgres does not answer; still trying.\n"
    assert demo.states == {}


async def test_the_sample_e_mails_are_read_as_they_were_written() -> None:
    """Each webhook names the newest comment of its ticket, which the program reads as the sample's message."""
    read: list[CommentMessage] = []
    async with Zendesk() as zendesk, ClientSession() as session:
        headers = {"Authorization": encode_basic_auth(f"{zendesk.email}/token", zendesk.api_token)}
        for number, sample in enumerate(samples(), 1):
            body = add_sample(zendesk, number, sample)
            url = f"{zendesk.url}/api/v2/tickets/{body['ticket_id']}/comments"
            query = {"include_inline_images": "true", "include": "users", "sort": "-created_at"}
            async with session.get(url, params=query, headers=headers) as response:
                messages = {message.comment_id: message for message in read_page(await response.json())}
            read.append(messages[body["comment_id"]])
        tickets = Counter(len(comments) for comments in zendesk.state.comments.values())

    assert all(message.is_email for message in read)
    assert [message.text for message in read] == [sample.text for sample in samples()]
    assert [message.sender.address for message in read] == [sample.from_address for sample in samples()]
    assert [len(message.files) for message in read] == [
        len(sample.files) + len(sample.inline) for sample in samples()
    ]
    assert {person.address for message in read for person in message.cc} == {
        address for sample in samples() for _, address in sample.cc
    }
    assert Counter(message.direction for message in read) == {"inbound": 19, "outbound": 1}
    assert all("cid:" not in (message.html or "") for message in read)
    assert tickets == {1: 16, 2: 2}
