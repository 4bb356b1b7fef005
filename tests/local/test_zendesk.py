"""The stand-in answers as Zendesk does, and fails as a test scripts it."""

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
from yarl import URL

from service.local.zendesk.stand_in import Fault, Zendesk


@pytest.fixture
async def zendesk() -> AsyncIterator[Zendesk]:
    async with Zendesk(oauth_token="oauth") as zendesk:
        yield zendesk


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


AGENT = {"Authorization": aiohttp.encode_basic_auth("agent@acme.example/token", "stand-in-token")}


async def _download(
    http: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = AGENT
) -> tuple[int, bytes]:
    """Download as docs/zendesk.md says: credentials for the account, none for the CDN, its address unchanged."""
    async with http.get(url, headers=headers, allow_redirects=False) as response:
        if response.status != 302:
            return response.status, await response.read()
        location = URL(response.headers["Location"], encoded=True)
    async with http.get(location) as response:
        return response.status, await response.read()


async def test_an_attachment_needs_credentials_and_is_served_by_the_cdn(
    zendesk: Zendesk, http: aiohttp.ClientSession
) -> None:
    url = zendesk.add_file("Rechnung 7/2026.pdf", b"%PDF-1.7 ...", content_type="application/pdf")
    async with http.get(url, headers=AGENT, allow_redirects=False) as response:
        location = URL(response.headers["Location"], encoded=True)
    async with http.get(location) as response:
        content = await response.read()

    assert content == b"%PDF-1.7 ..."
    assert response.content_type == "application/pdf"
    assert response.content_disposition
    assert response.content_disposition.filename == "Rechnung 7/2026.pdf"
    assert location.origin() == URL(zendesk.cdn_url) != URL(zendesk.url)
    assert (zendesk.file(url).requests, zendesk.file(url).downloads) == (1, 1)


async def test_an_oauth_token_is_accepted(zendesk: Zendesk, http: aiohttp.ClientSession) -> None:
    url = zendesk.add_file("a.txt", b"a")
    headers = {"Authorization": "Bearer oauth"}
    async with http.get(url, headers=headers, allow_redirects=False) as response:
        assert response.status == 302


@pytest.mark.parametrize(
    "headers", [None, {"Authorization": aiohttp.encode_basic_auth("agent@acme.example/token", "wrong")}]
)
async def test_wrong_credentials_get_a_sign_in_page_with_200(
    zendesk: Zendesk, http: aiohttp.ClientSession, headers: dict[str, str] | None
) -> None:
    status, content = await _download(http, zendesk.add_file("a.pdf", b"%PDF"), headers)

    assert status == 200
    assert b"<title>Sign in" in content


async def test_the_cdn_refuses_and_records_credentials(zendesk: Zendesk, http: aiohttp.ClientSession) -> None:
    url = zendesk.add_file("a.txt", b"a")
    async with http.get(url, headers=AGENT, allow_redirects=False) as response:
        location = URL(response.headers["Location"], encoded=True)
    async with http.get(location, headers=AGENT) as response:
        assert response.status == 403

    assert zendesk.state.cdn_authorizations == [AGENT["Authorization"]]


async def test_a_cdn_address_that_the_client_escaped_again_is_unknown(
    zendesk: Zendesk, http: aiohttp.ClientSession
) -> None:
    url = zendesk.add_file("a.txt", b"a")
    async with http.get(url, headers=AGENT) as response:  # aiohttp follows and escapes the address
        assert response.status in {403, 404}


async def test_an_unknown_token_is_404(zendesk: Zendesk, http: aiohttp.ClientSession) -> None:
    assert (await _download(http, f"{zendesk.url}/attachments/token/gone/?name=a"))[0] == 404


async def test_each_download_uses_up_one_scripted_fault(
    zendesk: Zendesk, http: aiohttp.ClientSession
) -> None:
    faults = [
        Fault(status=503, headers={"Retry-After": "1"}),
        Fault(status=404, at_cdn=True),
        Fault(sign_in=True),
        Fault(redacted=True),
    ]
    url = zendesk.add_file("a.txt", b"content", faults=faults)
    seen = [await _download(http, url) for _ in range(5)]

    assert [status for status, _ in seen] == [503, 404, 200, 200, 200]
    assert b"Sign in" in seen[2][1]
    assert [content for _, content in seen[3:]] == [b"", b"content"]
    assert (zendesk.file(url).requests, zendesk.file(url).downloads) == (5, 2)


async def test_a_body_can_end_with_a_reset(zendesk: Zendesk, http: aiohttp.ClientSession) -> None:
    url = zendesk.add_file("a.bin", bytes(500_000), faults=[Fault(reset_after=200_000)])

    with pytest.raises((aiohttp.ClientPayloadError, ConnectionResetError)):
        await _download(http, url)
    assert await _download(http, url) == (200, bytes(500_000))


async def test_a_body_can_wait_for_a_test(zendesk: Zendesk, http: aiohttp.ClientSession) -> None:
    fault = Fault(pause_after=1000, chunked=True)
    url = zendesk.add_file("a.bin", bytes(2000), faults=[fault])
    download = asyncio.create_task(_download(http, url))
    await asyncio.wait_for(fault.paused.wait(), 10)
    finished_early = download.done()
    fault.resume.set()

    assert await download == (200, bytes(2000))
    assert not finished_early


async def test_a_body_can_be_slow(zendesk: Zendesk, http: aiohttp.ClientSession) -> None:
    url = zendesk.add_file("a.bin", bytes(1000), faults=[Fault(bytes_per_second=5000)])
    start = time.monotonic()

    assert await _download(http, url) == (200, bytes(1000))
    assert time.monotonic() - start > 0.15


async def test_the_comments_api_pages_and_leaves_inline_images_out(
    zendesk: Zendesk, http: aiohttp.ClientSession
) -> None:
    for number in range(3):
        pdf, png = zendesk.add_file(f"{number}.pdf", b"%PDF"), zendesk.add_file(f"{number}.png", b"PNG")
        zendesk.add_comment(7, attachments=[pdf], inline=[png])

    async def names(query: str) -> list[list[str]]:
        pages, url = [], f"{zendesk.url}/api/v2/tickets/7/comments.json?{query}"
        while url:
            async with http.get(URL(url, encoded=True), headers=AGENT) as response:
                page = await response.json()
            pages.append([a["file_name"] for c in page["comments"] for a in c["attachments"]])
            url = page["links"]["next"]
        return pages

    assert await names("page[size]=2") == [["0.pdf", "1.pdf"], ["2.pdf"]]
    assert await names("include_inline_images=true") == [
        ["0.pdf", "0.png", "1.pdf", "1.png", "2.pdf", "2.png"]
    ]


async def test_the_comments_api_needs_credentials(zendesk: Zendesk, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{zendesk.url}/api/v2/tickets/7/comments") as response:
        assert response.status == 401
        assert await response.json() == {"error": "Couldn't authenticate you"}
