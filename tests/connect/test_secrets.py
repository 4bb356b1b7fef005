"""The signing secrets: learned from Zendesk, kept encrypted, and asked for rarely, whoever sends what."""

import asyncio
import secrets as random

import asyncpg
import pytest
from pydantic import SecretStr

from service.checks.connection import check_connection
from service.config.settings import Settings
from service.config.validators import SHORTEST_SECRET
from service.connect.secrets import FETCH_EVERY, MOST_WAITING, keep, known_secrets, learn
from service.errors import Transient
from service.local.zendesk.stand_in import Fault, Zendesk
from service.resources import Resources, open_resources
from tests.conftest import Server, eventually
from tests.support.connecting import connect, webhook_of, without_secret

ANNOUNCED = {"ticket_id": "1", "comment_id": "2"}


async def send(client: Server, secret: str) -> int:
    return (
        await client.zendesk.send(
            client.webhook, {**ANNOUNCED, "updated_at": random.token_hex(8)}, secret=secret
        )
    ).status


async def allow_fetch(database: asyncpg.Connection) -> None:
    """Let the time pass in which no further fetch is allowed."""
    await database.execute("UPDATE signing_secrets SET fetched_at = fetched_at - $1::interval", FETCH_EVERY)


async def test_a_rotated_secret_is_learned_by_the_first_webhook_that_it_signs(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        old = webhook_of(zendesk).secret
        assert await send(client, old) == 200
        await allow_fetch(database)
        webhook_of(zendesk).secret = new = random.token_urlsafe(32)
        answers = [await send(client, new), await send(client, old)]

        async def is_refused() -> bool:
            await allow_fetch(database)
            return await send(client, old) == 401

        await eventually(is_refused)

    assert answers == [200, 503], "the old secret ends at once, and is refused after a look of its own"


async def test_a_secret_is_fetched_at_once_while_all_other_calls_wait(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """Neither the budget has calls left, nor Zendesk's minute more than those that are left to others."""
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        await allow_fetch(database)
        webhook_of(zendesk).secret = new = random.token_urlsafe(32)
        await database.execute(
            "UPDATE api_budgets SET calls_per_minute = 200, used = 1000, calls_left = 4,"
            " window_ends_at = now() + interval '60 s', resets_at = now() + interval '60 s'"
        )
        with pytest.raises(Transient) as refused:
            await res.zendesk.get("/api/v2/users/me.json")
        status = await send(client, new)

    assert (refused.value.code, status) == ("rate_limited", 200)


async def test_web_starts_without_zendesk_once_the_secret_is_kept(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
    zendesk.state.rule_faults["webhooks"] = Fault(status=500)
    zendesk.state.token_faults.extend([Fault(status=503)] * 100)
    async with without_secret(settings, zendesk) as client:
        status = await send(client, webhook_of(zendesk).secret)

    assert status == 200


async def test_web_fetches_the_secret_of_a_webhook_that_a_person_made(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """PUBLIC_URL tells which webhook is ours."""
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        await database.execute("DELETE FROM connections")
        await database.execute("DELETE FROM signing_secrets")
        webhook_of(zendesk).fields["endpoint"] = "https://holdfast.acme.example/x/webhooks/zendesk/"
    settings = settings.model_copy(update={"public_url": "https://holdfast.acme.example/x"})
    async with without_secret(settings, zendesk) as client:
        status = await send(client, webhook_of(zendesk).secret)

    assert status == 200


async def test_another_process_learns_a_rotated_secret_from_postgres(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with without_secret(settings, zendesk) as client, without_secret(settings, zendesk) as other:
        await connect(res, client)
        await allow_fetch(database)
        webhook_of(zendesk).secret = new = random.token_urlsafe(32)
        first = await send(client, new)
        calls = zendesk.state.api_calls
        second = await send(other, new)

    assert (first, second) == (200, 200)
    assert zendesk.state.api_calls == calls


async def test_a_second_rotation_is_not_refused_before_the_next_fetch(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """Neither the process that fetched nor one that has news of the fetch knows the newest secret."""
    async with without_secret(settings, zendesk) as client, without_secret(settings, zendesk) as other:
        await connect(res, client)
        await allow_fetch(database)
        webhook_of(zendesk).secret = first = random.token_urlsafe(32)
        answers = [await send(client, first)]
        webhook_of(zendesk).secret = second = random.token_urlsafe(32)
        answers += [await send(each, second) for each in (client, other)]
        await allow_fetch(database)
        answers += [await send(each, second) for each in (client, other)]

    assert answers == [200, 503, 503, 200, 200]


async def test_a_process_without_the_turn_waits_for_the_one_that_has_it(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with without_secret(settings, zendesk) as client, without_secret(settings, zendesk) as other:
        await connect(res, client)
        await allow_fetch(database)
        webhook_of(zendesk).secret = new = random.token_urlsafe(32)
        zendesk.state.rule_faults["webhooks"] = Fault(delay_seconds=0.7)
        answers = await asyncio.gather(*(send(each, new) for each in (client, other)))

    assert answers == [200, 200]


async def test_credentials_that_see_no_secret_refuse_a_wrong_signature(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """Another look does not help; any other error may pass."""
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        answers = []
        for status in (403, 401, 500):
            await allow_fetch(database)
            zendesk.state.rule_faults["webhooks"] = Fault(status=status)
            answers.append(await send(client, random.token_urlsafe(32)))

    assert answers == [401, 503, 503]


ODD: dict[str, bytes] = {
    "an empty list that does not say that it is all": b'{"webhooks": []}',
    "an empty page with more after it": b'{"webhooks": [], "meta": {"has_more": true}, "links": {"next": null}}',
    "a webhook that cannot be parsed": b'{"webhooks": [{"id": 7}], "meta": {"has_more": false}}',
    "no list": b'{"webhooks": null, "meta": {"has_more": false}}',
}


@pytest.mark.parametrize("body", ODD.values(), ids=ODD.keys())
async def test_an_odd_list_of_webhooks_ends_no_secret(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection, body: bytes
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        await allow_fetch(database)
        zendesk.state.rule_faults["webhooks"] = Fault(status=200, body=body)
        stranger = await send(client, random.token_urlsafe(32))
        honest = await send(client, webhook_of(zendesk).secret)

    assert (stranger, honest) == (503, 200)


async def test_an_empty_list_for_others_than_administrators_ends_no_secret(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """A person lowers the role after connecting, as the documents say; a stranger's request causes the fetch."""
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        await allow_fetch(database)
        body = b'{"webhooks": [], "meta": {"has_more": false}}'
        zendesk.state.rule_faults["webhooks"] = Fault(status=200, body=body)
        zendesk.state.users[1001]["role"] = "agent"
        stranger = await send(client, random.token_urlsafe(32))
        honest = await send(client, webhook_of(zendesk).secret)

    assert (stranger, honest) == (503, 200)


@pytest.mark.parametrize("answer", [Fault(status=404), Fault(status=200, body=b'{"signing_secret": 7}')])
async def test_an_answer_without_a_secret_keeps_the_known_one(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection, answer: Fault
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        await allow_fetch(database)
        zendesk.state.rule_faults["signing secret"] = answer
        stranger = await send(client, random.token_urlsafe(32))
        honest = await send(client, webhook_of(zendesk).secret)

    assert (stranger, honest) == (503, 200)


async def test_a_known_webhook_stays_ours_at_another_address(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """A proxy before us may have another address; its id tells that the webhook is ours."""
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        await database.execute("DELETE FROM connections")
        await allow_fetch(database)
        webhook_of(zendesk).fields["endpoint"] = "https://proxy.acme.example/mail"
        webhook_of(zendesk).secret = new = random.token_urlsafe(32)
        status = await send(client, new)

    assert status == 200


async def test_the_secret_of_a_deleted_webhook_ends_with_the_next_fetch(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        secret = webhook_of(zendesk).secret
        zendesk.state.rules.webhooks.clear()
        await allow_fetch(database)
        await send(client, random.token_urlsafe(32))
        status = await send(client, secret)

    assert status in {401, 503}
    assert await database.fetchval("SELECT count(*) FROM signing_secrets WHERE webhook_id <> ''") == 0


async def test_unknown_signatures_cause_one_fetch_a_minute_over_all_processes(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with without_secret(settings, zendesk) as client, without_secret(settings, zendesk) as other:
        await connect(res, client)
        await allow_fetch(database)
        before = zendesk.state.calls["webhooks"]
        strangers = [send(each, random.token_hex(16)) for each in (client, other) for _ in range(100)]
        statuses = await asyncio.gather(*strangers)
        honest = await send(client, webhook_of(zendesk).secret)

    assert {*statuses} <= {401, 503}
    assert honest == 200
    assert zendesk.state.calls["webhooks"] - before <= 1


async def test_strangers_that_wait_delay_no_webhook_of_zendesk(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """Not even while Zendesk tells no secret."""
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        assert await send(client, webhook_of(zendesk).secret) == 200
        await allow_fetch(database)
        zendesk.state.rule_faults["webhooks"] = Fault(delay_seconds=6)
        strangers = [
            asyncio.create_task(send(client, random.token_hex(16))) for _ in range(MOST_WAITING + 20)
        ]
        refused = await eventually(lambda: _ended(strangers, 20))
        honest = [await send(client, webhook_of(zendesk).secret) for _ in range(3)]
        late = await asyncio.gather(*strangers)

    assert refused
    assert honest == [200] * 3
    assert {*late} == {503}


async def _ended(tasks: list[asyncio.Task[int]], number: int) -> int | None:
    ended = sum(task.done() for task in tasks)
    return ended if ended >= number else None


async def test_requests_without_a_plausible_signature_ask_nobody(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        await allow_fetch(database)
        before = zendesk.state.api_calls
        for header in ("", "x", "A" * 44):
            answer = await zendesk.send(
                client.webhook, ANNOUNCED, headers={"X-Zendesk-Webhook-Signature": header}
            )
            assert answer.status == 401

    assert zendesk.state.api_calls == before


async def test_a_slow_zendesk_makes_the_sender_repeat_and_not_wait(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        assert await send(client, webhook_of(zendesk).secret) == 200
        await allow_fetch(database)
        webhook_of(zendesk).secret = new = random.token_urlsafe(32)
        slow = Fault(delay_seconds=6)
        zendesk.state.rule_faults["webhooks"] = slow
        first = await zendesk.send(client.webhook, ANNOUNCED, secret=new)
        later = await eventually(lambda: _accepted(client, new))

    assert (first.status, first.json()["code"]) == (503, "signing_secrets_late")
    assert "Retry-After" in first.headers
    assert later == 200


async def test_webhooks_are_sent_again_while_postgres_has_not_told_the_secrets(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    """A 401 would lose them."""
    away = settings.model_copy(
        update={"database_url": SecretStr("postgres://user:any@127.0.0.1:1/name"), "database_seconds": 1}
    )
    async with without_secret(away, zendesk) as client:
        answer = await zendesk.send(client.webhook, ANNOUNCED)

    assert (answer.status, answer.json()["code"]) == (503, "signing_secrets_late")


@pytest.mark.parametrize("was_read", [False, True])
async def test_no_unknown_signature_is_refused_while_postgres_is_away(
    settings: Settings, zendesk: Zendesk, res: Resources, *, was_read: bool
) -> None:
    """Another secret may be kept there, whatever the settings have."""
    away = settings.model_copy(
        update={"database_url": SecretStr("postgres://user:any@127.0.0.1:1/name"), "database_seconds": 1}
    )
    async with open_resources(away) as own:
        if was_read:
            own.learned_secrets.replace({"01A": SecretStr("a-secret-of-zendesk")})
        with pytest.raises(Transient) as caught:
            await learn(own, own.learned_secrets.version)

    assert caught.value.code == "signing_secrets_late"


async def test_a_request_too_many_is_sent_again(settings: Settings, zendesk: Zendesk, res: Resources) -> None:
    results = await asyncio.gather(*(learn(res, 0) for _ in range(MOST_WAITING + 9)), return_exceptions=True)

    assert results.count(False) == MOST_WAITING
    late = [each for each in results if isinstance(each, Transient)]
    assert [each.code for each in late] == ["signing_secrets_late"] * 9


async def test_webhooks_are_sent_again_while_zendesk_has_not_told_the_first_secret(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        secret = webhook_of(zendesk).secret
        await database.execute("DELETE FROM signing_secrets")
        zendesk.state.rule_faults["webhooks"] = Fault(status=500)
    async with without_secret(settings, zendesk) as client:
        before = {await send(client, secret) for _ in range(3)}
        zendesk.state.rule_faults.clear()
        await allow_fetch(database)
        after = await eventually(lambda: _accepted(client, secret))

    assert (before, after) == ({503}, 200)


async def _accepted(client: Server, secret: str) -> int | None:
    status = await send(client, secret)
    return status if status == 200 else None


async def test_the_secrets_of_the_settings_stay(settings: Settings, zendesk: Zendesk, res: Resources) -> None:
    settings = settings.model_copy(
        update={"zendesk_webhook_secrets": (SecretStr("a-secret-of-the-settings"),)}
    )
    async with open_resources(settings) as own:
        await keep(own, {"01A": "a-secret-of-zendesk"})
        await learn(own, 0)

        assert known_secrets(own) == ["a-secret-of-the-settings", "a-secret-of-zendesk"]


async def test_secrets_are_encrypted_with_the_credentials(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """Other credentials cannot read them, and no row stands for another."""
    await keep(res, {"01A": "the-secret-of-the-first", "01B": "the-secret-of-the-second"})
    rows = await database.fetch("SELECT webhook_id, encrypted FROM signing_secrets WHERE webhook_id <> ''")
    zendesk.state.rule_faults["webhooks"] = Fault(status=500)
    others = settings.model_copy(update={"zendesk_oauth_client_secret": SecretStr("another-client-secret")})
    async with open_resources(others) as other:
        with pytest.raises(Transient):
            await learn(other, 0)
        assert known_secrets(other) == [zendesk.secret]
    await database.execute("UPDATE signing_secrets SET webhook_id = '01C' WHERE webhook_id = '01B'")
    await learn(res, 0)

    assert not any(b"the-secret" in row["encrypted"] for row in rows)
    assert known_secrets(res) == [zendesk.secret, "the-secret-of-the-first"]
    assert "the-secret" not in repr(res.learned_secrets)


async def test_a_known_secret_stays_when_other_credentials_replace_it_and_a_check_warns(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    """Web goes on until it gets the new credentials, too."""
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        before = await check_connection(res)
        (webhook_id,) = zendesk.state.rules.webhooks
        secret = webhook_of(zendesk).secret
        assert await send(client, secret) == 200
        others = settings.model_copy(
            update={"zendesk_oauth_client_secret": SecretStr("another-client-secret")}
        )
        async with open_resources(others) as other:
            await keep(other, {webhook_id: secret})
        after = await check_connection(res)
        zendesk.state.rule_faults["webhooks"] = Fault(status=403)
        assert not await learn(client.res, client.res.learned_secrets.version)

        assert await send(client, secret) == 200
    assert (before.ok, after.ok) == (True, None)
    assert "holdfast connect" in after.advice


async def test_a_check_warns_while_no_signing_secret_is_known(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection
) -> None:
    """A person made the webhook, and nothing says at which address: web refuses each request."""
    by_hand = await check_connection(res)
    async with without_secret(settings, zendesk) as client:
        refused = await send(client, "the-secret-that-a-person-saw")
        without = await check_connection(client.res)
        await connect(res, client)
        await database.execute("DELETE FROM connections")
        known = await check_connection(client.res)
        others = {"zendesk_oauth_client_secret": SecretStr("another-client-secret")}
        async with open_resources(client.res.settings.model_copy(update=others)) as other:
            unreadable = await check_connection(other)

    assert (by_hand.ok, refused, without.ok, known.ok) == (True, 401, None, True)
    assert "refuses each webhook" in without.found
    assert "holdfast connect" in without.advice
    assert (unreadable.ok, "cannot be decrypted" in unreadable.found) == (None, True)


@pytest.mark.parametrize("status", [403, 503])
async def test_a_check_warns_of_changed_credentials_also_if_these_see_no_webhook(
    settings: Settings, zendesk: Zendesk, res: Resources, status: int
) -> None:
    """As after a change from an API token of an administrator to an OAuth client of an agent."""
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
    zendesk.state.client_secret = "another-client-secret"
    zendesk.state.rule_faults.update(dict.fromkeys(("webhooks", "webhook"), Fault(status=status)))
    others = {"zendesk_oauth_client_secret": SecretStr("another-client-secret")}
    async with without_secret(settings.model_copy(update=others), zendesk) as client:
        check = await check_connection(client.res)

    assert (check.ok, "cannot be decrypted" in check.found) == (None, True)
    assert "holdfast connect" in check.advice


@pytest.mark.parametrize(
    "secret",
    [
        "short",
        7,
        None,
        ["a-secret-in-a-list"],
        "x" * 100_000,
        "with a space in the middle",
        "nul\0nul\0nul\0nul\0nul",
    ],
)
async def test_a_hostile_secret_is_not_used(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection, secret: object
) -> None:
    async with without_secret(settings, zendesk) as client:
        await connect(res, client)
        await allow_fetch(database)
        webhook_of(zendesk).secret = secret  # type: ignore[assignment]
        status = await send(client, "short" if secret == "short" else "x" * SHORTEST_SECRET)

        assert status in {401, 503}
        assert secret not in known_secrets(client.res)


async def test_no_secret_is_logged_or_said(
    settings: Settings,
    zendesk: Zendesk,
    res: Resources,
    database: asyncpg.Connection,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with without_secret(settings, zendesk) as client:
        made, said = await connect(res, client)
        await allow_fetch(database)
        webhook_of(zendesk).secret = "rotated-secret-of-this-test"
        await send(client, webhook_of(zendesk).secret)
        await send(client, "some-other-secret")
        shown = f"{made!r} {said!r} {client.res!r} {res!r}"
    logged = capsys.readouterr()
    stored = await database.fetch(
        "SELECT convert_from(raw_body, 'UTF8') || raw_headers FROM ignored_webhooks"
    )

    text = f"{shown} {logged.out} {logged.err} {stored}"
    for secret in (webhook_of(zendesk).secret, zendesk.client_secret):
        assert secret not in text
    assert not [token for token in zendesk.state.access_tokens if token in text]
