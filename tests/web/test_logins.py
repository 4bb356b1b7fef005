"""Logins of commands: a person confirms a short code once; the token has an end and is revoked at once."""

import asyncio
import json
import re
from collections.abc import AsyncIterator

import asyncpg
import pytest
import structlog
from pydantic import SecretStr

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.operate import logins
from service.resources import Resources
from service.web.auth.tokens import MOST_REFUSALS, REFUSALS
from tests.conftest import API_TOKEN, Server, serving
from tests.support.access import (
    BROWSER,
    READ_TOKEN,
    ask,
    basic,
    bearer,
    code_of,
    serving_readers,
    session,
)
from tests.support.api import EMAILS
from tests.support.logins import OURS, answer, begin, earlier, poll, signed_in
from tests.support.proxy import before_postgres
from tests.support.rows import add


@pytest.fixture
async def client(settings: Settings, zendesk: Zendesk, res: Resources) -> AsyncIterator[Server]:
    async with serving_readers(settings, zendesk) as client:
        yield client


# ── the way of a person


async def test_confirmed_command_acts_as_the_person_until_the_chosen_end(
    client: Server, database: asyncpg.Connection
) -> None:
    await add(database, processing_status="failed")
    begun = await begin(client, "ada's laptop\x1b[31m")
    waiting = await poll(client, begun["secret"])
    shown = await ask(
        client, "GET", f"/login?code={begun['user_code'].lower()}", headers=await session(client, API_TOKEN)
    )
    confirmed = await answer(client, begun["user_code"], days=7)
    await earlier(database, "polled_at", "1 minute")
    status, state = await poll(client, begun["secret"])

    acted = await ask(client, "POST", f"{EMAILS}/1/retry", headers=bearer(begun["secret"]))

    assert (waiting[0], waiting[1]["status"]) == (200, "waiting")
    assert begun["user_code"] in await shown.text()
    assert "ada&#39;s laptop?[31m" in await shown.text()
    assert confirmed.status == 200
    assert (status, state["status"], state["role"], state["confirmed_by"]) == (
        200,
        "signed_in",
        "operator",
        "Ada",
    )
    assert acted.status == 202
    actions = await database.fetch("SELECT actor, action, subject FROM operator_actions ORDER BY id")
    assert [tuple(row) for row in actions] == [
        ("Ada (dashboard)", "confirm_login", "login 1: ada's laptop?[31m"),
        ("Ada@ada's laptop?[31m (command line)", "retry", None),
    ]
    days = await database.fetchval("SELECT ends_at - confirmed_at FROM logins")
    assert days.days == 7


async def test_name_in_a_header_does_not_replace_the_person(
    client: Server, database: asyncpg.Connection
) -> None:
    await add(database, processing_status="failed")
    token = await signed_in(client)

    await ask(client, "POST", f"{EMAILS}/1/retry", headers=bearer(token) | {"X-Operator": "grace"})

    actor = await database.fetchval("SELECT actor FROM operator_actions WHERE action = 'retry'")
    assert actor == "Ada@laptop (command line)"


async def test_login_that_a_reader_confirmed_may_only_read_and_sign_out(
    client: Server, database: asyncpg.Connection
) -> None:
    await add(database, processing_status="failed")
    token = await signed_in(client, READ_TOKEN)

    looked = await ask(client, "GET", EMAILS, headers=bearer(token))
    acted = await ask(client, "POST", f"{EMAILS}/1/retry", headers=bearer(token))
    revoked = await ask(client, "POST", "/api/v1/logins/1/revoke", headers=bearer(token))
    ended = await ask(client, "POST", "/api/v1/logout", headers=bearer(token))

    assert (looked.status, acted.status, revoked.status, ended.status) == (200, 403, 403, 200)
    assert (await ask(client, "GET", EMAILS, headers=bearer(token))).status == 401


async def test_refused_command_is_told_so(client: Server, database: asyncpg.Connection) -> None:
    begun = await begin(client)
    refused = await answer(client, begun["user_code"], answer="refuse")

    status, problem = await poll(client, begun["secret"])

    assert refused.status == 200
    assert (status, problem["code"]) == (403, "login_refused")
    assert (await ask(client, "GET", EMAILS, headers=bearer(begun["secret"]))).status == 401


async def test_stranger_is_sent_to_the_sign_in_and_back_to_the_code(client: Server) -> None:
    response = await ask(client, "GET", "/login?code=BCDF-GHJK", headers=BROWSER)

    assert (response.status, response.headers["Location"]) == (303, "/sign-in?next=/login%3Fcode%3DBCDF-GHJK")


# ── hostile requests


async def test_secret_opens_nothing_before_its_confirmation(client: Server) -> None:
    begun = await begin(client)

    for method, path in (("GET", EMAILS), ("POST", "/api/v1/logout")):
        assert (await ask(client, method, path, headers=bearer(begun["secret"]))).status == 401


async def test_code_works_once(client: Server, database: asyncpg.Connection) -> None:
    begun = await begin(client)
    await answer(client, begun["user_code"])

    for again in ("confirm", "refuse"):
        replayed = await answer(client, begun["user_code"], answer=again)
        assert replayed.status == 404
    assert await database.fetchval("SELECT count(*) FROM logins WHERE confirmed_at IS NOT NULL") == 1
    assert (await ask(client, "GET", EMAILS, headers=bearer(begun["secret"]))).status == 200


async def test_code_that_two_people_answer_at_once_has_one_answer(
    client: Server, database: asyncpg.Connection
) -> None:
    begun = await begin(client)
    answers = await asyncio.gather(*(answer(client, begun["user_code"]) for _ in range(4)))

    assert sorted(each.status for each in answers) == [200, 404, 404, 404]
    assert await database.fetchval("SELECT count(*) FROM operator_actions") == 1


async def test_code_expires(client: Server, database: asyncpg.Connection) -> None:
    begun = await begin(client)
    await earlier(database, "begun_at", "11 minutes")

    confirmed = await answer(client, begun["user_code"])
    status, problem = await poll(client, begun["secret"])

    assert confirmed.status == 404
    assert (status, problem["code"]) == (404, "login_expired")


@pytest.mark.parametrize(
    "code", ["", "BCDF", "BCDF-GHJK", "%00", "' OR true --", "AEIO-UAEI", "Ⓑ" * 8, "B" * 100]
)
async def test_wrong_code_confirms_nothing(client: Server, database: asyncpg.Connection, code: str) -> None:
    await begin(client)

    response = await answer(client, code)

    assert response.status == 404
    assert await database.fetchval("SELECT count(*) FROM logins WHERE user_code IS NULL") == 0


async def test_guesses_are_slow_and_then_refused(client: Server) -> None:
    cookie = await session(client, API_TOKEN)
    client.app[REFUSALS].waiting = MOST_REFUSALS

    asked = await ask(client, "GET", "/login?code=BCDFGHJK", headers={**BROWSER, **cookie})
    answered = await answer(client, "BCDFGHJK")
    polled = await poll(client, "holdfast_guess")
    begun = await ask(client, "POST", "/login/begin", json={"name": "x"})

    assert (asked.status, answered.status, polled[0], begun.status) == (429, 429, 429, 429)
    client.app[REFUSALS].waiting = 0


async def test_impatient_command_is_slowed_down(client: Server) -> None:
    begun = await begin(client)

    first, second = await poll(client, begun["secret"]), await poll(client, begun["secret"])

    assert (first[0], second[0], second[1]["code"]) == (200, 429, "slow_down")


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_other_site_cannot_confirm_or_revoke(
    client: Server, database: asyncpg.Connection, site: str
) -> None:
    await signed_in(client)
    begun = await begin(client)
    headers = {**BROWSER, **await session(client, API_TOKEN), "Sec-Fetch-Site": site}
    data = {"code": begun["user_code"], "days": "90", "answer": "confirm"}

    confirmed = await ask(client, "POST", "/login", headers=headers, data=data)
    revoked = await ask(client, "POST", "/logins/1/revoke", headers=headers)

    assert (confirmed.status, revoked.status) == (403, 403)
    assert await database.fetchval("SELECT count(*) FROM logins WHERE user_code IS NOT NULL") == 1
    assert await database.fetchval("SELECT count(*) FROM logins WHERE revoked_at IS NOT NULL") == 0


async def test_only_a_person_confirms(client: Server) -> None:
    token, begun = await signed_in(client), await begin(client)
    data = {"code": begun["user_code"], "days": "90", "answer": "confirm"}

    for own in (token, API_TOKEN):
        refused = await ask(client, "POST", "/login", headers=bearer(own), data=data)
        assert (refused.status, await code_of(refused)) == (403, "person_needed")
    person = await ask(client, "POST", "/login", headers=basic(API_TOKEN), data=data)
    assert person.status == 200


@pytest.mark.parametrize(
    ("days", "status"), [("0", 400), ("-1", 400), ("367", 400), ("x", 400), ("366", 200)]
)
async def test_end_is_bounded(client: Server, days: str, status: int) -> None:
    begun = await begin(client)

    assert (await answer(client, begun["user_code"], days=days)).status == status


async def test_beyond_the_most_waiting_the_oldest_that_nobody_polls_are_forgotten(
    client: Server, database: asyncpg.Connection
) -> None:
    """A stranger who begins many logins does not end one whose command waits."""
    token, first, polled, expired = await signed_in(client), *[await begin(client) for _ in range(3)]
    for each in (polled, expired):
        assert (await poll(client, each["secret"]))[0] == 200
    await database.execute(
        "UPDATE logins SET begun_at = now() - interval '11 minutes' WHERE user_code = $1",
        expired["user_code"].replace("-", ""),
    )
    await database.execute(f"SELECT setval('logins_id_seq', {logins.MOST_WAITING + 4})")

    await begin(client)

    assert (await poll(client, first["secret"]))[0] == 404
    assert (await answer(client, polled["user_code"])).status == 200
    assert await database.fetchval("SELECT count(*) FROM logins") == 3, "the expired one is forgotten, too"
    assert (await ask(client, "GET", EMAILS, headers=bearer(token))).status == 200


# ── the end of a login


async def test_revoked_login_ends_at_once(client: Server, database: asyncpg.Connection) -> None:
    token = await signed_in(client)
    headers = {**OURS, **await session(client, API_TOKEN, name="Grace")}

    revoked = await ask(client, "POST", "/logins/1/revoke", headers=headers)
    again = await ask(client, "POST", "/api/v1/logins/1/revoke", headers=bearer(API_TOKEN))
    missing = await ask(client, "POST", "/api/v1/logins/2/revoke", headers=bearer(API_TOKEN))
    page = await (await ask(client, "GET", "/logins", headers=headers)).text()

    assert (revoked.status, revoked.headers["Location"]) == (303, "/logins?notice=login_revoked")
    assert (again.status, await code_of(again)) == (409, "login_over")
    assert (missing.status, await code_of(missing)) == (404, "login_not_found")
    assert (await ask(client, "GET", EMAILS, headers=bearer(token))).status == 401
    assert "revoked" in page
    assert "Grace (dashboard)" in page


async def test_login_ends_by_the_clock(client: Server, database: asyncpg.Connection) -> None:
    token = await signed_in(client)
    await earlier(database, "ends_at", "91 days")

    assert (await ask(client, "GET", EMAILS, headers=bearer(token))).status == 401


@pytest.mark.parametrize(("role", "other"), [(API_TOKEN, "api_read_token"), (READ_TOKEN, "api_token")])
async def test_new_token_of_the_role_ends_its_logins_alone(
    client: Server, settings: Settings, zendesk: Zendesk, role: str, other: str
) -> None:
    token, both = await signed_in(client, role), {"api_token": API_TOKEN, "api_read_token": READ_TOKEN}

    for renewed, status in ((other, 200), (("api_token", "api_read_token")[role == READ_TOKEN], 401)):
        changed = {**both, renewed: "another-token-of-the-tests"}
        secret = {name: SecretStr(value) for name, value in changed.items()}
        async with serving(settings.model_copy(update=secret), zendesk) as later:
            assert (await ask(later, "GET", EMAILS, headers=bearer(token))).status == status


async def test_row_without_a_proof_opens_nothing(client: Server, database: asyncpg.Connection) -> None:
    token = await signed_in(client, READ_TOKEN)
    await database.execute("UPDATE logins SET role = 'operator'")

    assert (await ask(client, "GET", EMAILS, headers=bearer(token))).status == 401


async def test_token_of_no_login_cannot_sign_out(client: Server) -> None:
    response = await ask(client, "POST", "/api/v1/logout", headers=bearer(API_TOKEN))

    assert (response.status, await code_of(response)) == (409, "no_login")


async def test_list_has_names_and_times_and_no_secret(client: Server, database: asyncpg.Connection) -> None:
    token = await signed_in(client)
    await begin(client, "waiting")
    await ask(client, "GET", EMAILS, headers=bearer(token))

    answered = await (await ask(client, "GET", "/api/v1/logins", headers=bearer(READ_TOKEN))).text()

    (login,) = json.loads(answered)["logins"]
    assert (login["name"], login["confirmed_by"], login["state"], login["role"]) == (
        "laptop",
        "Ada",
        "in_force",
        "operator",
    )
    assert login["used_at"] is not None
    kept = str(await database.fetch("SELECT * FROM logins"))
    assert token not in answered + kept


# ── outages and logs


async def test_without_postgres_a_login_is_unknown_and_tokens_work(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with before_postgres(settings) as (proxy, behind), serving_readers(behind, zendesk) as client:
        token = await signed_in(client)
        proxy.cut()
        known = await ask(client, "GET", EMAILS, headers=bearer(token))
        wrong = await ask(client, "GET", EMAILS, headers=bearer("wrong"))
        await proxy.resume()

    assert (known.status, wrong.status) == (503, 401)


async def test_logs_hold_neither_secret_nor_code(client: Server) -> None:
    with structlog.testing.capture_logs() as logs:
        begun = await begin(client)
        await answer(client, "BCDFGHJK")
        await answer(client, begun["user_code"])
        await poll(client, begun["secret"])
        await ask(client, "GET", EMAILS, headers=bearer(begun["secret"]))
        await ask(client, "GET", EMAILS, headers=bearer("holdfast_unknown"))

    assert [line["event"] for line in logs] == ["login_confirmed", "token_refused"]
    assert not re.search(f"{begun['secret']}|{begun['user_code']}|holdfast_unknown", str(logs))


async def test_without_a_token_set_no_login_begins(settings: Settings, zendesk: Zendesk) -> None:
    async with serving(settings.model_copy(update={"api_token": None}), zendesk) as client:
        for path, sent in (("/login/begin", {"name": "x"}), ("/login/poll", {"secret": "holdfast_x"})):
            response = await ask(client, "POST", path, json=sent)
            assert (response.status, await code_of(response)) == (403, "api_closed")


async def test_revocation_ends_the_streams_of_the_login(client: Server) -> None:
    headers = bearer(await signed_in(client))
    async with client.session.get(f"{client.url}/live/changes", headers=headers) as stream:
        assert (await stream.content.readline()).startswith(b"event: changed")

        await ask(client, "POST", "/api/v1/logout", headers=headers)

        await asyncio.wait_for(stream.content.read(), 60)  # a stream goes on for minutes otherwise
