"""The description of the API: complete, correct, and without other hosts."""

import json
import re
from typing import Any, get_args, get_type_hints

import pytest
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from service.config.settings import Settings
from service.postgres.email_tables import ATTACHMENT_STATUSES, OUTCOMES, STATUSES
from service.queries.views import AttachmentView, AttemptView, ProcessingStatus, View
from service.web.api import docs
from service.web.api.openapi import document
from service.web.app import PAGES, ROUTES, create_app
from service.web.handling import static
from service.web.handling.routes import Routes
from tests.conftest import API_TOKEN, Server


async def fetch(client: Server, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    async with client.session.get(f"{client.url}{path}", headers=headers) as response:
        return response.status, {**response.headers}, await response.text()


def refs(part: object) -> set[str]:
    if isinstance(part, dict):
        inner = {ref for value in part.values() for ref in refs(value)}
        return inner | {part["$ref"]} if "$ref" in part else inner
    return {ref for item in part for ref in refs(item)} if isinstance(part, list) else set()


@pytest.fixture
async def openapi(client: Server) -> dict[str, Any]:
    status, headers, text = await fetch(client, "/openapi.json")
    assert (status, headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


# ── the document


async def test_every_route_but_pages_is_described(openapi: dict[str, Any], settings: Settings) -> None:
    served = {
        (route.method, route.resource.canonical)
        for route in create_app(settings).router.routes()
        if route.resource and route.method != "HEAD"
    }
    pages = {(page.method, page.path) for page in PAGES}
    described = {(method.upper(), path) for path, methods in openapi["paths"].items() for method in methods}

    assert described == served - pages
    assert described & pages == set()


async def test_document_is_complete_and_names_no_host(openapi: dict[str, Any]) -> None:
    operations = [about for methods in openapi["paths"].values() for about in methods.values()]

    assert openapi["openapi"] == "3.1.0"
    assert openapi["servers"] == [{"url": "/"}]
    assert set(re.findall(r"\w+://[^/\"]+", json.dumps(openapi))) == {
        "https://acme.zendesk.com"
    }  # in examples
    assert API_TOKEN not in json.dumps(openapi)
    assert len({about["operationId"] for about in operations}) == len(operations)
    for kind in ("schemas", "examples"):
        defined = {f"#/components/{kind}/{name}" for name in openapi["components"][kind]}
        assert {ref for ref in refs(openapi) if f"/{kind}/" in ref} == defined
    for about in operations:
        assert about["summary"]
        for scheme in about.get("security", openapi["security"]):
            assert set(scheme) <= set(openapi["components"]["securitySchemes"])


async def test_paths_with_a_token_have_security_and_errors(openapi: dict[str, Any]) -> None:
    for path, methods in openapi["paths"].items():
        for about in methods.values():
            assert ("security" in about) != path.startswith("/api/"), path
            assert ({"401", "403"} <= set(about["responses"])) == path.startswith("/api/"), path


async def test_paths_of_an_email_may_redirect_to_the_one_it_became(openapi: dict[str, Any]) -> None:
    for path, methods in openapi["paths"].items():
        for about in methods.values():
            assert ("308" in about["responses"]) == path.startswith("/api/v1/emails/{id}"), path


def test_all_methods_of_a_path_are_open_or_none() -> None:
    """The guard only compares the path."""
    opened = {route.path for route in ROUTES if route.is_open}

    assert not opened & {route.path for route in ROUTES if not route.is_open}


def test_enums_of_the_description_match_the_tables() -> None:
    def words(model: type[BaseModel], field: str) -> set[str]:
        return {
            word
            for kind in (get_type_hints(model)[field], *get_args(get_type_hints(model)[field]))
            for word in get_args(kind)
            if isinstance(word, str)
        }

    assert set(get_args(ProcessingStatus)) == set(STATUSES)
    assert words(AttachmentView, "status") == set(ATTACHMENT_STATUSES)
    assert words(AttemptView, "outcome") == set(OUTCOMES)


class Filter(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = Field(5, ge=1, le=10, description="How many")
    name: str | None = Field(None, max_length=7)
    kind: int | str | None = None
    needed: str


class Wish(BaseModel):
    what: str
    often: int = 1


class Granted(View):
    """Done."""

    what: str = "nothing"


def test_route_is_described_by_its_decorator_and_docstring() -> None:
    routes = Routes("Wishes")

    @routes.post(
        "/api/v1/wishes/{sha256}",
        query=Filter,
        body=Wish,
        answer=Granted,
        status=202,
        errors={409: "It was granted."},
    )
    async def grant(_: web.Request) -> web.Response:
        """Grant a wish.

        The second paragraph is not in the summary.
        """
        return web.Response()

    made = document(routes, "1.2.3")
    operation = made["paths"]["/api/v1/wishes/{sha256}"]["post"]
    parameters = {about["name"]: about for about in operation["parameters"]}

    assert (operation["operationId"], made["info"]["version"]) == ("grant", "1.2.3")
    assert (operation["summary"], operation["tags"]) == ("Grant a wish", ["Wishes"])
    assert set(operation["responses"]) == {
        *("202", "400", "401", "403", "404", "408", "409", "413", "415", "500", "503")
    }
    assert operation["responses"]["202"]["description"] == "Done."
    assert operation["responses"]["409"]["description"] == "It was granted."
    assert parameters["sha256"]["schema"]["pattern"] == "^[0-9a-f]{64}$"
    assert parameters["limit"] == {
        "name": "limit",
        "in": "query",
        "required": False,
        "description": "How many",
        "schema": {"type": "integer", "minimum": 1, "maximum": 10, "default": 5},
    }
    assert parameters["name"]["schema"] == {"type": "string", "maxLength": 7}
    assert parameters["kind"]["schema"] == {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    assert parameters["needed"]["required"] is True
    schemas = made["components"]["schemas"]
    assert schemas["Wish"]["required"] == ["what"]
    assert schemas["Granted"]["required"] == ["what"], "an answer always has all fields"


def test_nested_query_model_is_refused() -> None:
    class Nested(BaseModel):
        wish: Wish

    routes = Routes("x")

    @routes.get("/x", query=Nested)
    async def show(_: web.Request) -> web.Response:
        return web.Response()

    with pytest.raises(TypeError, match="Nested"):
        document(routes, "1")


# ── the sign-in page


async def test_page_shows_every_operation_and_its_links_work(client: Server, openapi: dict[str, Any]) -> None:
    status, headers, text = await fetch(client, "/docs", Accept="text/html")

    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
    for methods in openapi["paths"].values():
        for about in methods.values():
            assert about["operationId"] in ids
            for parameter in about["parameters"]:
                assert f">{parameter['name']}<" in re.sub(r" <span.*?</span>", "", text)
    for name in openapi["components"]["schemas"]:
        assert f"shape-{name}" in ids


async def test_page_loads_only_our_files(client: Server) -> None:
    for page in ("/docs", "/sign-in"):
        _, _, text = await fetch(client, page)
        loaded = set(re.findall(r'(?:<link[^>]*href|src)="([^"]+)"', text))

        assert len(loaded) >= 2
        for address in loaded:
            status, headers, _ = await fetch(client, address)
            assert (status, headers["X-Content-Type-Options"]) == (200, "nosniff")
            assert headers["Cache-Control"] == "public, max-age=31536000, immutable"


async def test_static_file_is_cached_for_ever_only_under_its_hash(client: Server) -> None:
    """During a rollout, old processes get requests for files of the new version."""
    for query in ("", "?v=another"):
        status, headers, _ = await fetch(client, f"/static/base.css{query}")

        assert (status, headers["Cache-Control"]) == (200, "no-cache")


@pytest.mark.parametrize("name", ["", "nothing.css", "..%2Fstatic.py", "%2e%2e", "base.css%00", "../app.py"])
async def test_only_static_files_are_served(client: Server, name: str) -> None:
    status, _, _ = await fetch(client, f"/static/{name}")

    assert status in {401, 404}  # `..` leads to another page, and that needs a session


def test_stylesheets_load_nothing_from_other_hosts() -> None:
    for name, file in static.files().items():
        if name.endswith(".js"):
            continue
        text = file.content.decode()
        assert "@import" not in text, name
        assert "url(" not in text, name
        assert set(re.findall(r"\w+://[^\"' ]+", text)) <= {"http://www.w3.org/2000/svg"}, name


async def test_page_and_document_are_made_once_per_process(client: Server) -> None:
    """Anybody may request them, and rendering takes longer than an intake."""
    for path, make in (("/docs", docs._page), ("/openapi.json", docs._text)):
        _, _, first = await fetch(client, path)
        made = make.cache_info().misses

        for _ in range(5):
            _, _, text = await fetch(client, path)
            assert _without_nonce(text) == _without_nonce(first)
        assert make.cache_info().misses == made


async def test_each_answer_with_the_page_has_a_nonce_of_its_own(client: Server) -> None:
    """A browser runs the script with the nonce, and no other: the page is the same for everybody, its nonce is not."""
    nonces = set()
    for _ in range(2):
        _, headers, text = await fetch(client, "/docs")
        (nonce,) = re.findall(r'nonce="([^"]+)"', text)
        assert f"script-src 'nonce-{nonce}';" in headers["Content-Security-Policy"]
        nonces.add(nonce)

    assert len(nonces) == 2


async def test_page_has_a_form_for_each_get_and_no_other(client: Server, openapi: dict[str, Any]) -> None:
    _, _, text = await fetch(client, "/docs")

    forms = re.findall(r'<form action="([^"]+)">', text)
    assert forms == [path for path, methods in _by_tag(openapi) if "get" in methods]


def _without_nonce(text: str) -> str:
    return re.sub(r'nonce="[^"]+"', "", text)


def _by_tag(openapi: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the paths with their methods, in the order of the page."""
    order = [tag["name"] for tag in openapi["tags"]]
    paths = openapi["paths"].items()
    return sorted(paths, key=lambda item: order.index(next(iter(item[1].values()))["tags"][0]))
