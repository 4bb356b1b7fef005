"""The page of an error names what is wrong, and leads back to where the person was."""

import re

import pytest

from service.config.settings import Settings
from tests.conftest import Server
from tests.support.pages import quarantine, read, words_of

BACK = re.compile(r'<a href="([^"]*)">Go back to the page before</a>')


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/complete?day=2026-13-01", "day: "),
        ("/complete?ay=2026-12-01", "ay: there is no such parameter; there are before, day, "),
        ("/activity?actor=foo", "actor: there is no such parameter; there are limit, cursor"),
        ("/quarantine?ignored=1", "ignored: there is no such parameter; there are replayed, dismissed, "),
        ("/reconciliations?limit=many", "limit: Input should be a valid integer"),
        ("/receipts?limit=1000", "limit: Input should be less than or equal to 200"),
        ("/retention/plan?action=add&name=x&days=9", "days: there is no such parameter; there are name, "),
    ],
)
async def test_a_wrong_parameter_is_named_with_what_is_allowed(client: Server, path: str, said: str) -> None:
    assert f"Bad Request {said}" in words_of(await read(client, path, status=400))


async def test_a_doubled_rule_is_told_nothing_about_days(client: Server) -> None:
    rule = "action=add&name=x&everything=true&keep_days"
    form = {"action": "add", "name": "x", "everything": "true", "keep_days": "90"}
    await read(client, "/retention", form=form, status=303)

    doubled = words_of(await read(client, f"/retention/plan?{rule}=90", status=409))
    short = words_of(await read(client, f"/retention/plan?{rule.replace('=x', '=y')}=3", status=409))

    assert "Two rules have the name x: choose another." in doubled
    assert "RETENTION_FLOOR_DAYS" not in doubled
    assert "RETENTION_FLOOR_DAYS is 30" in short


@pytest.mark.parametrize(
    ("path", "form", "before"),
    [
        ("/quarantine/1/replay", {}, "/quarantine/1"),
        ("/quarantine/1/dismiss", {"reason": " "}, "/quarantine/1/dismiss"),
        ("/quarantine/1/replay", {}, "/quarantine?error_code=not_json&dismissed=false"),
        ("/erasures/plan", {"kind": "email", "subject": "x"}, "/erasures"),
    ],
)
async def test_a_refused_form_leads_back_to_its_page(
    client: Server, path: str, form: dict[str, str], before: str
) -> None:
    await quarantine(client)

    page = await read(
        client, path, form=form, status=422 if "kind" in form else 409, Referer=client.url + before
    )

    assert [found.replace("&amp;", "&") for found in BACK.findall(page)] == [before]


@pytest.mark.parametrize(
    "referer",
    [
        "",
        "https://evil.example/",
        "{url}//evil.example",
        "{url}/\\evil.example",
        "http://[",
        "{url}/nothing",
        "<script>",
    ],
)
async def test_nothing_leads_to_another_site_or_to_the_error_itself(client: Server, referer: str) -> None:
    page = await read(client, "/nothing", status=404, Referer=referer.format(url=client.url))

    assert "Go to the overview" in page
    assert BACK.findall(page) == []


async def test_below_a_prefix_the_way_back_has_it_once(client: Server, settings: Settings) -> None:
    prefixed = settings.model_copy(update={"public_url": "https://tools.example/holdfast"})
    object.__setattr__(client.res, "settings", prefixed)

    for referer, back in (
        ("https://tools.example/holdfast/holds?a=1", ["/holdfast/holds?a=1"]),
        ("https://tools.example/other/holds", []),
        ("https://tools.example/holdfastest", []),
    ):
        assert BACK.findall(await read(client, "/nothing", status=404, Referer=referer)) == back


async def test_the_way_back_from_a_plan_that_was_posted_leads_to_its_form(client: Server) -> None:
    page = await read(client, "/nothing", status=404, Referer=f"{client.url}/erasures/plan")

    assert BACK.findall(page) == ["/erasures"]
