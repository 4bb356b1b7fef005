"""The stand-in's API has the shape of Zendesk's: e-mails as comments, tickets, users, originals, and the rate limit."""

import email
import email.policy
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from yarl import URL

from service.local.zendesk.mail import SUPPORT
from service.local.zendesk.stand_in import Fault, Zendesk
from service.local.zendesk.state import MalwareScan
from service.zendesk.messages import CommentMessage, Person, read_page, read_tickets

AGENT = {"Authorization": aiohttp.encode_basic_auth("agent@acme.example/token", "stand-in-token")}
WHOLE = "include_inline_images=true&include=users&sort=-created_at&page[size]=100"
NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
PDF, PNG = b"%PDF-1.7 ...", b"\x89PNG\r\n\x1a\n"


class Api:
    """Calls of a stand-in's API, as an agent."""

    def __init__(self, zendesk: Zendesk, session: aiohttp.ClientSession) -> None:
        self.zendesk, self.session = zendesk, session

    async def ask(self, path: str, headers: dict[str, str] | None = AGENT) -> tuple[int, Any, Any]:
        """Return status, headers and body; `path` may be a whole address."""
        url = path if path.startswith("http") else self.zendesk.url + path
        async with self.session.get(
            URL(url, encoded=True), headers=headers, allow_redirects=False
        ) as response:
            is_json = response.content_type == "application/json"
            body = await response.json() if is_json else await response.read()
            return response.status, response.headers, body

    async def get(self, path: str) -> Any:
        status, _, body = await self.ask(path)
        assert status == 200, body
        return body

    async def comments(self, ticket: int, query: str = WHOLE) -> list[dict[str, Any]]:
        page = await self.get(f"/api/v2/tickets/{ticket}/comments.json?{query}")
        return list(page["comments"])

    async def messages(self, ticket: int) -> list[CommentMessage]:
        """Return the comments as the program reads them."""
        return read_page(await self.get(f"/api/v2/tickets/{ticket}/comments.json?{WHOLE}"))

    async def attachment(self, ticket: int) -> dict[str, Any]:
        """Return the only attachment of a ticket's only comment."""
        ((attachment,),) = [comment["attachments"] for comment in await self.comments(ticket)]
        return dict(attachment)


@pytest.fixture
async def zendesk() -> AsyncIterator[Zendesk]:
    async with Zendesk() as zendesk:
        yield zendesk


@pytest.fixture
async def api(zendesk: Zendesk) -> AsyncIterator[Api]:
    async with aiohttp.ClientSession() as session:
        yield Api(zendesk, session)


# ── comments


async def test_an_e_mail_is_a_comment_with_its_people_and_notes(zendesk: Zendesk, api: Api) -> None:
    pdf, png = zendesk.add_file("a.pdf", PDF), zendesk.add_file("logo.png", PNG)
    number = zendesk.add_email(
        7,
        subject="Kündigung",
        from_name="Jörg Häußler",
        from_address="joerg@customer.example",
        to="support@acme.example",
        cc=[("Lena Roth", "lena@customer.example"), (None, "office@customer.example")],
        text="Guten Tag,\n\nhiermit <b>kündige</b> ich.",
        html='<p>Guten Tag</p><img src="cid:logo.png">',
        attachments=[pdf],
        inline=[png],
        message_id="<1@customer.example>",
        created_at=NOON,
    )
    page = await api.get(f"/api/v2/tickets/7/comments.json?{WHOLE}")

    (comment,) = page["comments"]
    users = {user["email"]: user["id"] for user in page["users"]}
    source = comment["via"]["source"]
    assert (comment["id"], comment["type"], comment["public"]) == (number, "Comment", True)
    assert comment["author_id"] == users["joerg@customer.example"]
    assert comment["via"]["channel"] == "email"
    assert source["from"] == {
        "address": "joerg@customer.example",
        "name": "Jörg Häußler",
        "original_recipients": ["support@acme.example", "lena@customer.example", "office@customer.example"],
    }
    assert source["to"] == {
        "name": "Acme Support",
        "address": "support@acme.example",
        "email_ccs": [users["lena@customer.example"], "office@customer.example"],
    }
    assert comment["body"] == comment["plain_body"] == "Guten Tag,\n\nhiermit <b>kündige</b> ich."
    image = f'<img src="{zendesk.url}{zendesk.file(png).path}">'
    assert comment["html_body"] == f'<div class="zd-comment" dir="auto"><p>Guten Tag</p>{image}</div>'
    assert [(file["file_name"], file["inline"]) for file in comment["attachments"]] == [
        ("a.pdf", False),
        ("logo.png", True),
    ]
    assert comment["created_at"] == "2026-11-20T12:00:00Z"
    system = comment["metadata"]["system"]
    assert system["message_id"] == "<1@customer.example>"
    assert system["raw_email_identifier"].endswith(".eml")
    assert len(system["email_id"]) == 26


async def test_a_text_without_html_is_shown_escaped(zendesk: Zendesk, api: Api) -> None:
    zendesk.add_email(7, text="1 < 2\nyes\n\n& so on")

    (comment,) = await api.comments(7)
    assert comment["html_body"] == (
        '<div class="zd-comment" dir="auto"><p dir="auto">1 &lt; 2<br>yes</p><p dir="auto">&amp; so on</p></div>'
    )


async def test_the_program_reads_the_direction_and_people_of_each_kind_of_comment(
    zendesk: Zendesk, api: Api
) -> None:
    def at(minutes: int) -> datetime:
        return NOON + timedelta(minutes=minutes)

    zendesk.add_email(7, cc=[("Lena Roth", "lena@customer.example")], created_at=at(0))
    zendesk.add_comment(7, channel="web", body="We look into it.", public=False, created_at=at(1))
    zendesk.add_email(
        7,
        from_name="Jana Roth",
        from_address="jana@acme.example",
        to=("Mara Lindqvist", "mara@customer.example"),
        outbound=True,
        created_at=at(2),
    )
    zendesk.add_comment(7, created_at=at(3))
    zendesk.add_comment(8, follows=7, created_at=at(4))

    read = [*reversed(await api.messages(7)), *await api.messages(8)]

    mara, jana = Person("Mara Lindqvist", "mara@customer.example"), Person("Jana Roth", "jana@acme.example")
    assert [(one.is_email, one.direction, one.public, one.sender) for one in read] == [
        (True, "inbound", True, mara),
        (False, "outbound", False, jana),
        (True, "outbound", True, jana),
        (True, "inbound", True, mara),
        (True, "inbound", True, mara),
    ]
    assert read[0].to == (Person(*SUPPORT),)
    assert read[0].cc == (Person("Lena Roth", "lena@customer.example"),)
    assert read[2].to == (mara,)
    assert [one.channel for one in read] == ["email", "web", "email", "email", "web"]


async def test_a_follow_up_comes_by_the_web_and_names_the_closed_ticket(zendesk: Zendesk, api: Api) -> None:
    zendesk.add_email(7)
    zendesk.add_email(8, follows=7, message_id="<2@customer.example>")

    (comment,) = await api.comments(8)
    assert comment["via"] == {
        "channel": "web",
        "source": {"from": {"ticket_id": 7}, "to": {}, "rel": "follow_up"},
    }
    assert comment["metadata"]["system"]["message_id"] == "<2@customer.example>"
    assert (await api.get("/api/v2/tickets/7"))["ticket"]["followup_ids"] == [8]


async def test_users_are_listed_only_on_request_and_once(zendesk: Zendesk, api: Api) -> None:
    for _ in range(2):
        zendesk.add_email(7, cc=[("Lena Roth", "lena@customer.example")])
    with_users = await api.get("/api/v2/tickets/7/comments?include=users")
    without = await api.get("/api/v2/tickets/7/comments")

    assert [(user["name"], user["role"]) for user in with_users["users"]] == [
        ("Mara Lindqvist", "end-user"),
        ("Lena Roth", "end-user"),
    ]
    assert "users" not in without


@pytest.mark.parametrize("sort", ["created_at", "-created_at"])
async def test_pages_follow_each_other_in_the_order_of_time(zendesk: Zendesk, api: Api, sort: str) -> None:
    for minutes in (2, 0, 1):
        zendesk.add_comment(7, body=str(minutes), created_at=NOON + timedelta(minutes=minutes))
    url, bodies = f"/api/v2/tickets/7/comments?sort={sort}&page[size]=2", []
    while url:
        page = await api.get(url)
        bodies.append([comment["body"] for comment in page["comments"]])
        assert page["meta"]["has_more"] == (page["links"]["next"] is not None)
        url = page["links"]["next"]

    assert bodies == ([["0", "1"], ["2"]] if sort == "created_at" else [["2", "1"], ["0"]])


async def test_a_comment_that_arrives_between_two_pages_repeats_none(zendesk: Zendesk, api: Api) -> None:
    for body in "abc":
        zendesk.add_comment(7, body=body)
    first = await api.get("/api/v2/tickets/7/comments?sort=-created_at&page[size]=2")
    zendesk.add_comment(7, body="d")
    second = await api.get(first["links"]["next"])

    assert [comment["body"] for comment in first["comments"] + second["comments"]] == ["c", "b", "a"]


async def test_wrong_pages_are_refused(zendesk: Zendesk, api: Api) -> None:
    for _ in range(2):
        zendesk.add_comment(7)
    path = "/api/v2/tickets/7/comments"
    page = await api.get(f"{path}?sort=-created_at&page[size]=1")
    cursor = page["meta"]["after_cursor"]
    queries = ("page[size]=101", "page[size]=0", "sort=id", f"page[after]={cursor}", "page[after]=x")
    answers = [await api.ask(f"{path}?{query}") for query in queries]

    assert [status for status, _, _ in answers] == [400] * len(queries)
    assert {body["errors"][0]["code"] for _, _, body in answers} == {"InvalidPaginationParameter"}


async def test_a_ticket_without_comments_is_unknown(zendesk: Zendesk, api: Api) -> None:
    zendesk.payload(ticket_id=7)
    for path in ("/api/v2/tickets/7/comments", "/api/v2/tickets/7"):
        status, _, body = await api.ask(path)
        assert (status, body["error"]) == (404, "RecordNotFound")


# ── tickets and users


async def test_a_ticket_has_the_subject_recipient_and_people_of_its_e_mails(
    zendesk: Zendesk, api: Api
) -> None:
    zendesk.add_email(7, subject="RE 2026/1003", to="billing@acme.example", created_at=NOON)
    zendesk.add_email(
        7,
        subject="Re: RE 2026/1003",
        cc=[("Lena Roth", "lena@customer.example")],
        created_at=NOON + timedelta(hours=1),
    )
    ticket = (await api.get("/api/v2/tickets/7.json"))["ticket"]
    users = await api.get(
        f"/api/v2/users/show_many?ids={ticket['requester_id']},{ticket['email_cc_ids'][0]},9"
    )

    assert ticket["id"] == 7
    assert ticket["subject"] == ticket["raw_subject"] == "RE 2026/1003"
    assert ticket["recipient"] == "billing@acme.example"
    assert (ticket["created_at"], ticket["updated_at"]) == ("2026-11-20T12:00:00Z", "2026-11-20T13:00:00Z")
    assert [user["email"] for user in users["users"]] == ["mara@customer.example", "lena@customer.example"]


async def test_the_requester_of_an_agents_first_e_mail_is_its_recipient(zendesk: Zendesk, api: Api) -> None:
    zendesk.add_email(7, from_address="jana@acme.example", to=("Tom", "tom@customer.example"), outbound=True)
    ticket = (await api.get("/api/v2/tickets/7"))["ticket"]
    users = (await api.get(f"/api/v2/users/show_many?ids={ticket['requester_id']},{ticket['submitter_id']}"))[
        "users"
    ]

    assert [user["email"] for user in users] == ["tom@customer.example", "jana@acme.example"]
    assert ticket["recipient"] is None


async def test_show_many_leaves_out_unknown_tickets_and_takes_a_hundred_ids(
    zendesk: Zendesk, api: Api
) -> None:
    for ticket in (1, 2):
        zendesk.add_email(ticket, subject=f"Subject {ticket}")
    path = "/api/v2/tickets/show_many.json?ids="
    many = await api.get(path + ",".join(map(str, range(1, 101))))
    refused = [(await api.ask(path + ids))[0] for ids in (",".join(map(str, range(101))), "", "a")]

    assert {number: facts.subject for number, facts in read_tickets(many).items()} == {
        "1": "Subject 1",
        "2": "Subject 2",
    }
    assert many["count"] == 2
    assert refused == [400, 400, 400]


@pytest.mark.parametrize(
    "path", ["tickets/7", "tickets/7/comments", "tickets/show_many?ids=7", "users/show_many?ids=1001"]
)
async def test_the_api_needs_credentials(zendesk: Zendesk, api: Api, path: str) -> None:
    zendesk.add_email(7)

    assert (await api.ask(f"/api/v2/{path}", headers=None))[0] == 401
    assert (await api.ask(f"/api/v2/{path}"))[0] == 200


# ── the rate limit


async def test_calls_are_counted_by_endpoint(zendesk: Zendesk, api: Api) -> None:
    zendesk.add_email(7)
    paths = ("tickets/7/comments", "tickets/7/comments.json", "tickets/show_many?ids=7", "users/me", "macros")
    for path in paths:
        await api.ask(f"/api/v2/{path}")
    await api.ask("/audits/9002/email.eml?ticket_id=7")

    assert zendesk.state.calls == {
        "comments": 2,
        "tickets/show_many": 1,
        "users/me": 1,
        "unknown": 1,
        "email.eml": 1,
    }
    assert zendesk.state.api_calls == len(paths)


async def test_the_rate_limit_is_told_and_kept(zendesk: Zendesk, api: Api) -> None:
    zendesk.state.calls_per_minute = 3
    zendesk.state.api_faults.append(Fault(status=503))
    answers = [await api.ask("/api/v2/users/me") for _ in range(4)]
    zendesk.state.end_minute()
    later = await api.ask("/api/v2/users/me")

    assert [status for status, _, _ in answers] == [503, 200, 200, 429]
    assert [headers["X-Rate-Limit-Remaining"] for _, headers, _ in answers] == ["2", "1", "0", "0"]
    assert {headers["X-Rate-Limit"] for _, headers, _ in answers} == {"3"}
    assert 0 < int(answers[-1][1]["Retry-After"]) <= 60
    assert answers[-1][1]["Retry-After"] == answers[-1][1]["ratelimit-reset"]
    assert (later[0], later[1]["ratelimit-remaining"]) == (200, "2")


async def test_without_a_rate_limit_no_header_tells_one(zendesk: Zendesk, api: Api) -> None:
    _, headers, _ = await api.ask("/api/v2/users/me")

    assert not [name for name in headers if "rate" in name.lower()]


# ── originals


async def _original(zendesk: Zendesk, api: Api, ticket: int) -> tuple[int, Any, bytes]:
    (comment,) = zendesk.state.comments[str(ticket)]
    return await api.ask(f"/audits/{comment['audit_id']}/email.eml?ticket_id={ticket}")


async def test_the_original_is_served_as_it_came(zendesk: Zendesk, api: Api) -> None:
    zendesk.state.gives_originals = True
    zendesk.add_email(7, original=b"Subject: raw\r\n\r\n\xff")
    status, headers, content = await _original(zendesk, api, 7)
    (comment,) = zendesk.state.comments["7"]
    other = await api.ask(f"/audits/{comment['audit_id']}/email.eml?ticket_id=8")

    assert (status, headers["Content-Type"]) == (200, "message/rfc822")
    assert content == b"Subject: raw\r\n\r\n\xff"
    assert other[0] == 404


async def test_an_original_is_made_of_the_e_mail(zendesk: Zendesk, api: Api) -> None:
    zendesk.state.gives_originals = True
    zendesk.add_email(
        7,
        subject="Kündigung\r\nBcc: x@y.example \ud800",
        from_name='Jörg "Joe" Häußler',
        from_address="joerg@customer.example",
        cc=[(None, "office@customer.example")],
        text="Grüße",
        html='<p>Grüße</p><img src="cid:logo.png">',
        attachments=[zendesk.add_file("Kündigung.pdf", PDF, content_type="application/pdf")],
        inline=[zendesk.add_file("logo.png", PNG, content_type="image/png")],
        message_id="<1@customer.example>",
        created_at=NOON,
    )
    _, _, content = await _original(zendesk, api, 7)
    message = email.message_from_bytes(content, policy=email.policy.default)

    assert message["Message-ID"] == "<1@customer.example>"
    assert message["Subject"] == "Kündigung Bcc: x@y.example  "
    assert message["Bcc"] is None
    assert message["From"].addresses[0].display_name == 'Jörg "Joe" Häußler'
    assert message["Cc"] == "office@customer.example"
    assert message["Date"].datetime == NOON
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content() == "Grüße\r\n"
    (pdf,) = [part for part in message.walk() if part.get_filename() == "Kündigung.pdf"]
    (png,) = [part for part in message.walk() if part.get_filename() == "logo.png"]
    assert (pdf.get_content(), png.get_content()) == (PDF, PNG)
    assert f'src="cid:{png["Content-ID"][1:-1]}"' in html.get_content()


async def test_an_original_that_is_not_given_redirects_to_the_sign_in_page(
    zendesk: Zendesk, api: Api
) -> None:
    zendesk.add_email(7)
    status, headers, _ = await _original(zendesk, api, 7)
    page = await api.ask(headers["Location"])
    zendesk.state.gives_originals = True
    (comment,) = zendesk.state.comments["7"]
    anonymous = await api.ask(f"/audits/{comment['audit_id']}/email.eml?ticket_id=7", headers=None)

    assert (status, anonymous[0]) == (302, 302)
    assert b"<title>Sign in" in page[2]


# ── attachments


async def test_an_address_that_died_is_404_and_the_list_shows_a_fresh_one(zendesk: Zendesk, api: Api) -> None:
    old = zendesk.add_file("logo.png", PNG)
    zendesk.add_email(7, html='<img src="cid:logo.png">', inline=[old])
    before = await api.attachment(7)
    fresh = zendesk.state.expire(old)
    after = await api.attachment(7)

    assert [(await api.ask(url))[0] for url in (old, fresh)] == [404, 302]
    assert (before["content_url"], after["content_url"]) == (old, fresh)
    assert before["id"] == after["id"]
    assert after["inline"] is True
    assert fresh in (await api.comments(7))[0]["html_body"]
    assert zendesk.file(old) is zendesk.file(fresh)


async def test_an_address_dies_by_its_age(zendesk: Zendesk, api: Api) -> None:
    old = zendesk.add_file("a.pdf", PDF)
    zendesk.add_email(7, attachments=[old])
    zendesk.state.token_life_seconds = 3600
    young = (await api.attachment(7))["content_url"]
    zendesk.file(old).token_made -= 3600
    dead = (await api.ask(old))[0]
    fresh = (await api.attachment(7))["content_url"]

    assert (young, dead) == (old, 404)
    assert (await api.ask(fresh))[0] == 302


async def test_a_file_with_malware_is_refused_unless_overridden(zendesk: Zendesk, api: Api) -> None:
    url = zendesk.add_file("a.exe", b"MZ", malware="not_scanned")
    zendesk.add_email(7, attachments=[url])
    results: list[tuple[MalwareScan, bool]] = [
        ("not_scanned", False),
        ("malware_found", False),
        ("malware_found", True),
        ("malware_not_found", False),
    ]
    seen = []
    for result, override in results:
        zendesk.state.scan(url, result, override=override)
        file = await api.attachment(7)
        status, _, _ = await api.ask(url)
        seen.append((file["malware_scan_result"], file["malware_access_override"], status))

    assert seen == [
        ("not_scanned", False, 302),
        ("malware_found", False, 403),
        ("malware_found", True, 302),
        ("malware_not_found", False, 302),
    ]


async def test_a_redacted_file_is_an_empty_text(zendesk: Zendesk, api: Api) -> None:
    url = zendesk.add_file("a.pdf", PDF)
    zendesk.add_email(7, attachments=[url])
    zendesk.state.redact(url)
    file = await api.attachment(7)
    alone = (await api.get(f"/api/v2/attachments/{file['id']}.json"))["attachment"]
    _, headers, _ = await api.ask(file["content_url"])
    status, _, content = await api.ask(headers["Location"], headers=None)

    assert (file["file_name"], file["size"], file["deleted"]) == ("redacted.txt", 0, True)
    assert alone == file
    assert (status, content) == (200, b"")


async def test_a_redacted_text_is_redacted_in_the_original_too(zendesk: Zendesk, api: Api) -> None:
    zendesk.state.gives_originals = True
    number = zendesk.add_email(7, text="My PIN is 1234.")
    zendesk.state.redact_text(number, "1234")
    (comment,) = await api.comments(7)

    assert comment["body"] == comment["plain_body"] == "My PIN is ▇▇▇▇."
    assert "1234" not in comment["html_body"]
    assert comment["metadata"]["system"]["eml_redacted"] is True
    assert (await _original(zendesk, api, 7))[0] == 404


def test_the_recommended_body_names_the_comment_and_nothing_of_its_content() -> None:
    zendesk = Zendesk()
    number = zendesk.add_email(7, created_at=NOON)

    assert zendesk.announcement(7, number) == {
        "ticket_id": "7",
        "comment_id": str(number),
        "updated_at": "2026-11-20T12:00:00Z",
    }
