"""The path prefix on a shared host: no link, form or redirect leads out of it."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape
from itertools import cycle
from typing import Any
from urllib.parse import urlencode

import pytest
from aiohttp import ClientResponse, ClientSession, CookieJar, web

from service.config.alerts import PATHS, AlertSettings
from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from service.web.app import ROUTES
from tests.conftest import API_TOKEN, Client, Server, serving, working
from tests.support.pages import PNG, failing, quarantine, send

PREFIX = "/holdfast/in-box"
# Each attribute with a path, except typed values.
_PATHS = re.compile(r'\s(?!value|title|alt|placeholder)[\w-]+="(/[^"#]*)')
_FORMS = re.compile(r'<form method="post" action="([^"]*)">(.*?)</form>', re.DOTALL)
_FIELDS = re.compile(r'<input[^>]*?name="(\w+)"[^>]*?value="([^"]*)"')


@asynccontextmanager
async def proxied(server: Server) -> AsyncIterator[tuple[str, list[str]]]:
    """Run a proxy that only serves the prefix; yield its address and its refused requests.

    It strips the prefix from every second request.
    """
    outside: list[str] = []
    strip = cycle((True, False))

    async def forward(request: web.Request) -> web.StreamResponse:
        path = str(request.rel_url)
        if not f"{request.rel_url.path}/".startswith(f"{PREFIX}/"):
            outside.append(path)
            return web.Response(status=404)
        place = server.url + (path.removeprefix(PREFIX) or "/" if next(strip) else path)
        body = await request.read()
        async with server.session.request(
            request.method, place, headers=request.headers, data=body, allow_redirects=False
        ) as answer:
            response = web.StreamResponse(status=answer.status)
            response.headers.extend(answer.headers)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", outside
    await runner.cleanup()


class Browser:
    """A client that follows all links of the pages."""

    def __init__(self, url: str, session: ClientSession) -> None:
        self.url = url
        self.session = session
        self.seen: dict[str, int] = {}
        self.forms: dict[str, dict[str, str]] = {}

    @asynccontextmanager
    async def asking(self, path: str, form: dict[str, str] | None = None) -> AsyncIterator[ClientResponse]:
        headers = {"Accept": "text/html", "Origin": self.url}
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        async with self.session.request(
            "POST" if form is not None else "GET",
            self.url + path,
            data=None if form is None else urlencode(form),
            headers=headers,
            allow_redirects=False,
        ) as response:
            yield response

    async def go(self, path: str, form: dict[str, str] | None = None) -> str:
        """Request a page; note and return its links, or the target of its redirect."""
        async with self.asking(path, form) as response:
            self.seen[path] = response.status
            if "Location" in response.headers:
                return response.headers["Location"]
            if response.content_type == "text/event-stream":
                text = (await response.content.readuntil(b"\n\n")).decode()
            else:
                text = (await response.read()).decode(errors="replace")
            if response.content_type in {"text/html", "text/event-stream"}:
                self.forms |= {action: _filled(inner) for action, inner in _FORMS.findall(text)}
                # The forms to try the API have paths with parameters.
                return " ".join(unescape(place) for place in _PATHS.findall(text) if "{" not in place)
            return ""

    async def go_everywhere(self) -> None:
        self.seen.clear()  # without a session there were other pages
        todo = [f"{PREFIX}/"]
        while todo:
            path = todo.pop()
            if path not in self.seen:
                todo += (await self.go(path)).split(" ")
                todo = [each for each in todo if each and each not in self.seen and each not in self.forms]


def _place(form: tuple[str, dict[str, str]]) -> tuple[bool, bool]:
    """Order forms: a dismissal comes before a retry, and the bulk retry last. A queued e-mail allows neither."""
    return form[0] == f"{PREFIX}/retries", not form[0].endswith("/dismiss")


def _filled(form: str) -> dict[str, str]:
    """Return the fields of a form as it is, with a reason where it asks for one."""
    return dict(_FIELDS.findall(form)) | ({"reason": "It is gone."} if 'name="reason"' in form else {})


@asynccontextmanager
async def browsing(settings: Settings, zendesk: Zendesk) -> AsyncIterator[Any]:
    prefixed = settings.model_copy(update={"public_url": f"https://host.example{PREFIX}/", "max_retries": 0})
    async with serving(prefixed, zendesk) as server, proxied(server) as (url, outside):
        jar = CookieJar(unsafe=True, treat_as_secure_origin=[url])
        async with ClientSession(cookie_jar=jar) as session:
            yield server, Browser(url, session), outside


async def test_below_a_prefix_all_links_stay_below_it(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with browsing(settings, zendesk) as (server, browser, outside), working(settings):
        behind = Client(browser.url + PREFIX, browser.session, zendesk)
        stored = await send(behind, name=PNG.name, content=PNG.content)  # type: ignore[arg-type]
        await server.until(stored, "completed")
        await failing(server)
        await quarantine(server)

        to_sign_in = await browser.go(f"{PREFIX}/emails/{stored}")
        form = {"next": f"/emails/{stored}", "name": "ada", "token": API_TOKEN}
        signed_in = await browser.go(f"{PREFIX}/sign-in", form)
        await browser.go_everywhere()
        email = await behind.email(stored)
        async with browser.asking(f"{PREFIX}/openapi.json") as response:
            described = json.loads(await response.read())
        forms = sorted(browser.forms.items(), key=_place)
        leads = {action: await browser.go(action, fields) for action, fields in forms if "sign" not in action}
        signed_out = await browser.go(f"{PREFIX}/sign-out", {})

        assert to_sign_in == f"{PREFIX}/sign-in?next=/emails/{stored}"
        assert signed_in == f"{PREFIX}/emails/{stored}"
        assert signed_out == f"{PREFIX}/sign-in"
        assert outside == []
        # The request still cannot be parsed, and some forms have fields that nobody filled in.
        unfilled = {"/holds", "/retention/plan", "/erasures/plan", "/failures/acknowledge"}
        unfilled |= {"/quarantine/1/replay", "/quarantine/1/edit"}
        refused = {path.partition("?")[0] for path, status in browser.seen.items() if status >= 400}
        assert refused == {f"{PREFIX}{path}" for path in unfilled}
        assert {f"{PREFIX}{path}" for path in _every_page(stored)} <= set(browser.seen)
        assert len(leads) >= 4
        assert all(place.startswith(f"{PREFIX}/") for place in " ".join(leads.values()).split()), leads
        assert {cookie["path"] for cookie in browser.session.cookie_jar} <= {PREFIX}
        assert described["servers"] == [{"url": PREFIX}]
        assert email["attachments"][0]["href"].startswith(f"{PREFIX}/api/v1/emails/{stored}/")


def _every_page(email_id: int) -> set[str]:
    places = (
        "emails",
        "failures",
        "quarantine",
        "retries",
        "reconciliations",
        "activity",
        "docs",
        "openapi.json",
    )
    picture = f"/emails/{email_id}/attachments/0/preview"
    return {
        "/",
        picture,
        "/live/overview",
        "/live/changes",
        "/quarantine/1",
        *(f"/{place}" for place in places),
    }


async def test_two_services_on_one_host_keep_separate_sessions(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    """A browser sends the cookies of both, in any order."""
    async with browsing(settings, zendesk) as (_, browser, _):
        await browser.go(f"{PREFIX}/sign-in", {"name": "ada", "token": API_TOKEN})
        ours = next(f"{cookie.key}={cookie.value}" for cookie in browser.session.cookie_jar)
        statuses = []
        for shown in (f"{ours}; holdfast_session=of.another.one", f"holdfast_session=of.another.one; {ours}"):
            async with (
                ClientSession() as session,
                session.get(f"{browser.url}{PREFIX}/emails", headers={"Cookie": shown}) as response,
            ):
                statuses.append(response.status)

        assert statuses == [200, 200]


def test_prefix_must_not_be_one_of_our_paths() -> None:
    assert {route.path.split("/")[1] for route in ROUTES} - {""} == PATHS


@pytest.mark.parametrize(
    ("public_url", "prefix"),
    [
        (None, ""),
        ("https://host.example", ""),
        ("https://host.example/", ""),
        ("https://host.example/holdfast", "/holdfast"),
        ("https://host.example:8443/a/b_c%20d.e/", "/a/b_c%20d.e"),
    ],
)
def test_prefix_is_the_path_of_public_url(public_url: str | None, prefix: str) -> None:
    assert AlertSettings(public_url=public_url).path_prefix == prefix


@pytest.mark.parametrize(
    "path",
    ["//evil.example", "/a//b", "/../a", "/a;b", '/a"b', "/a?b=c", "/a#b", "/emails", "/api/v2", "/static/"],
)
def test_unsafe_prefix_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        AlertSettings(public_url=f"https://host.example{path}")
