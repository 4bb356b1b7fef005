"""The doctor finds what is wrong, and says what to do; it raises nothing, and shows no secret."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from service.config.settings import Settings
from service.doctor.findings import Check
from service.doctor.zendesk import check_zendesk
from service.local.zendesk import Zendesk
from service.resources import Resources, open_resources

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def changed(settings: Settings, **changes: Any) -> Settings:
    """Give other settings, judged as those of an environment are."""
    return Settings(**{name: getattr(settings, name) for name in settings.model_fields_set} | changes)


async def zendesk_of(settings: Settings, **changes: Any) -> Check:
    async with open_resources(changed(settings, **changes)) as res:
        return await check_zendesk(res)


async def test_good_credentials_are_good(res: Resources) -> None:
    assert await check_zendesk(res) == Check("zendesk", True, "signed in as user 1001")


@pytest.mark.parametrize("oauth", [False, True])
async def test_wrong_credentials_are_found_though_zendesk_answers_as_to_anybody(
    settings: Settings, zendesk: Zendesk, *, oauth: bool
) -> None:
    wrong = SecretStr("hunter2")
    name = "zendesk_oauth_token" if oauth else "zendesk_api_token"

    check = await zendesk_of(settings, **{name: wrong})

    assert (check.ok, check.found) == (False, "Zendesk does not know these credentials")
    assert name.upper() in check.advice
    assert "hunter2" not in str(check)
    assert zendesk.desk.account_authorizations, "it was asked"


async def test_without_credentials_it_says_what_will_not_work(settings: Settings, zendesk: Zendesk) -> None:
    check = await zendesk_of(settings, zendesk_email=None, zendesk_api_token=None)

    assert check.ok is None
    assert "ZENDESK_API_TOKEN" in check.advice
    assert not zendesk.desk.account_authorizations


async def test_an_account_that_is_away_is_found(settings: Settings) -> None:
    check = await zendesk_of(settings, zendesk_url="http://127.0.0.1:1")

    assert (check.ok, check.found[:24]) == (False, "127.0.0.1: no connection")
    assert "ZENDESK_URL" in check.advice
