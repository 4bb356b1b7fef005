"""Checks report problems with advice; they raise nothing and show no secret."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from arq import ArqRedis
from pydantic import SecretStr
from pymongo import AsyncMongoClient

from service.checks.probe import Check
from service.checks.report import check_all, check_release
from service.checks.servers import check_clock_of_postgres, check_clock_of_redis
from service.checks.settings import check_settings
from service.checks.zendesk import check_zendesk
from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources, open_resources
from tests.conftest import serving
from tests.support.commands import command
from tests.support.proxy import before_redis
from tests.support.targets import SECRET

NAMES = [
    *("settings", "webhook secret", "API token", "download hosts", "alerts", "fault points"),
    *("postgres", "migrations", "connections", "history", "redis", "eviction", "storage", "zendesk"),
    "connection",
    *("clock of Postgres", "clock of Redis", "workers", "waiting", "calls", "removals", "sync"),
]


@pytest.fixture(autouse=True)
async def a_worker(database: asyncpg.Connection) -> None:
    await database.execute("INSERT INTO workers (name, pid, version) VALUES ('worker.1', 1, '1')")


def changed(settings: Settings, **changes: Any) -> Settings:
    """Return changed settings, validated like those of an environment."""
    return Settings(**{name: getattr(settings, name) for name in settings.model_fields_set} | changes)


async def zendesk_of(settings: Settings, **changes: Any) -> Check:
    async with open_resources(changed(settings, **changes)) as res:
        return await check_zendesk(res)


async def test_good_credentials_pass(res: Resources) -> None:
    assert await check_zendesk(res) == Check("zendesk", True, "signed in as user 1001")


@pytest.mark.parametrize("restriction", ["groups", "assigned", None, "", 7, ["groups"]])
async def test_a_user_who_sees_only_some_tickets_is_a_warning(
    res: Resources, zendesk: Zendesk, restriction: object
) -> None:
    """Zendesk's lists leave out the others without a word."""
    zendesk.state.users[1001]["ticket_restriction"] = restriction

    check = await check_zendesk(res)

    assert (check.ok is None, "ticket_restriction" in check.found) == (
        restriction in ("groups", "assigned"),
    ) * 2


NO_CLIENT = {"zendesk_oauth_client_id": None, "zendesk_oauth_client_secret": None}


@pytest.mark.parametrize("oauth", [False, True])
async def test_wrong_credentials_fail_although_zendesk_answers_them_as_anonymous(
    settings: Settings, zendesk: Zendesk, *, oauth: bool
) -> None:
    name = "zendesk_oauth_token" if oauth else "zendesk_api_token"
    email = {} if oauth else {"zendesk_email": zendesk.email}

    check = await zendesk_of(settings, **NO_CLIENT, **email, **{name: SecretStr("hunter2")})

    assert (check.ok, check.found) == (False, "Zendesk does not know these credentials")
    assert name.upper() in check.advice
    assert "hunter2" not in str(check)
    assert zendesk.state.account_authorizations, "a request was sent"


async def test_missing_credentials_are_a_warning_with_consequences(
    settings: Settings, zendesk: Zendesk
) -> None:
    check = await zendesk_of(settings, **NO_CLIENT)

    assert check.ok is None
    assert "ZENDESK_OAUTH_CLIENT_ID" in check.advice
    assert not zendesk.state.account_authorizations


async def test_an_unknown_oauth_client_fails(settings: Settings) -> None:
    check = await zendesk_of(settings, zendesk_oauth_client_secret=SecretStr("hunter2"))

    assert check.ok is False
    assert "answered 401 to the OAuth client" in check.found
    assert "ZENDESK_OAUTH_CLIENT_SECRET" in check.found + check.advice
    assert "hunter2" not in str(check)


async def test_working_api_tokens_are_a_warning_about_their_end(settings: Settings, zendesk: Zendesk) -> None:
    token = SecretStr(zendesk.api_token)

    check = await zendesk_of(settings, **NO_CLIENT, zendesk_email=zendesk.email, zendesk_api_token=token)

    assert (check.ok, check.found[:22]) == (None, "signed in as user 1001")
    assert "end on 30 April 2027" in check.found
    assert "30 days" in check.found
    assert "ZENDESK_OAUTH_CLIENT_ID" in check.advice


async def test_an_unreachable_account_fails(settings: Settings) -> None:
    check = await zendesk_of(settings, zendesk_url="http://127.0.0.1:1")

    assert (check.ok, "connection_failed" in check.found) == (False, True)
    assert "ZENDESK_URL" in check.advice


async def examined(settings: Settings, **changes: Any) -> dict[str, Check]:
    async with open_resources(changed(settings, **changes)) as res:
        return {check.name: check for check in await check_all(res)}


async def test_a_healthy_installation_has_no_failed_check(
    settings: Settings, database: asyncpg.Connection
) -> None:
    checks = await examined(settings)

    assert list(checks) == NAMES
    assert {name for name, check in checks.items() if check.ok is not True} == {"download hosts", "alerts"}
    assert all(bool(check.advice) != bool(check.ok) for check in checks.values())


async def test_an_outage_fails_the_checks_of_one_dependency_only(settings: Settings, tmp_path: Path) -> None:
    # Only of a directory with nothing yet does nobody know whether it is the right one while Postgres is away.
    await asyncio.to_thread((tmp_path / "objects" / ".spool").mkdir, parents=True)
    postgres = await examined(settings, database_url=SecretStr("postgres://user:hunter2@127.0.0.1:1/name"))
    redis = await examined(settings, redis_url=SecretStr("redis://:hunter2@127.0.0.1:1"))

    of_postgres = {
        "postgres",
        "migrations",
        "connections",
        "history",
        "clock of Postgres",
        "workers",
        "waiting",
        "calls",
        "removals",
        "connection",
    }
    assert {name for name, check in postgres.items() if check.ok is False} == of_postgres
    assert {name for name, check in redis.items() if check.ok is False} == {
        "redis",
        "eviction",
        "clock of Redis",
    }
    assert "DATABASE_URL" in postgres["postgres"].advice
    assert "REDIS_URL" in redis["redis"].advice
    assert "hunter2" not in f"{postgres}{redis}"


async def test_a_hanging_server_times_out(settings: Settings) -> None:
    async with before_redis(settings) as (proxy, slow):
        proxy.freeze()
        checks = await examined(slow)

    assert (checks["redis"].ok, checks["postgres"].ok) == (False, True)
    assert checks["redis"].found == "no answer within 5 s"


@asynccontextmanager
async def without_writes(redis: ArqRedis, why: str) -> AsyncIterator[None]:
    """Make Redis refuse every write, and answer everything else."""
    try:
        if why == "replica":
            await redis.replicaof("127.0.0.1", "1")
        else:
            await redis.config_set("maxmemory", "1")
        yield
    finally:
        await redis.replicaof("NO", "ONE")
        await redis.config_set("maxmemory", "0")


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        ("replica", "it is a replica and accepts no writes: connect to its primary"),
        ("full", "its memory is full, and it accepts no writes: give it more"),
    ],
)
async def test_a_redis_without_writes_is_found_wherever_an_absent_one_is(
    why: str, reason: str, settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with without_writes(res.redis, why), serving(settings, zendesk) as client:
        checks = await examined(settings)
        released = {check.name: check for check in await check_release(res)}
        ready = await client.get("/readyz", status=503)

    advice = "meanwhile e-mails are accepted and processed, a little later"
    assert checks["redis"] == Check("redis", False, reason, advice)
    assert released["redis"] == Check("redis", None, reason, advice)
    assert ready["checks"]["redis"] == {"ok": False, "error": reason}


async def test_a_redis_that_evicts_is_a_warning(settings: Settings, res: Resources) -> None:
    await res.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        check = (await examined(settings))["eviction"]
    finally:
        await res.redis.config_set("maxmemory-policy", "noeviction")

    assert (check.ok, check.found) == (None, "maxmemory-policy is allkeys-lru")
    assert "noeviction" in check.advice


@pytest.mark.parametrize(
    ("version", "ok", "found", "advice"),
    [
        ("20251006_0910", False, "not run, the next is 20251013_0900_add_operations", "`holdfast migrate`"),
        ("29991231_2359", None, "is newer (29991231_2359) than this program", "this version works with it"),
        ("20260204_1549_add_saga", False, "is another system's", "holdfast takeover --plan"),
    ],
)
async def test_tables_of_another_version_are_reported(
    settings: Settings,
    database: asyncpg.Connection,
    version: str,
    found: str,
    advice: str,
    *,
    ok: bool | None,
) -> None:
    now = await database.fetchval("SELECT version_num FROM alembic_version")
    await database.execute("UPDATE alembic_version SET version_num = $1", version)
    try:
        check = (await examined(settings))["migrations"]
    finally:
        await database.execute("UPDATE alembic_version SET version_num = $1", now)

    assert check.ok is ok
    assert found in check.found
    assert advice in check.advice


async def test_more_connections_than_postgres_allows_fail(settings: Settings) -> None:
    check = (await examined(settings, database_pool_size=30, web_concurrency=4))["connections"]

    assert check.ok is False
    assert check.found.startswith("4 web and 1 worker processes may open 30 each, a release and a command 1")
    assert "DATABASE_POOL_SIZE" in check.advice


async def test_an_unwritable_storage_fails(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    check = (await examined(settings, storage_url=f"file://{tmp_path}/file/objects"))["storage"]

    assert check.ok is False
    assert "NotADirectoryError" in check.found
    assert "STORAGE_URL" in check.advice


@pytest.mark.parametrize(("seconds", "ok"), [(2, True), (-30, None), (3600, False)])
async def test_a_clock_that_is_off_is_reported(res: Resources, seconds: int, *, ok: bool | None) -> None:
    def now() -> float:
        return time.time() - seconds

    checks = [await check_clock_of_postgres(res, now), await check_clock_of_redis(res, now)]

    assert [check.ok for check in checks] == [ok, ok]
    assert all(f"{abs(seconds)}.0 s" in check.found for check in checks)


@pytest.mark.parametrize(
    ("change", "ok", "found"),
    [
        ("DELETE FROM workers", False, "0 alive, 0 silent"),
        ("UPDATE workers SET stopped_at = now()", False, "0 alive, 0 silent"),
        (
            "INSERT INTO workers (name, pid, version, seen_at) VALUES ('x', 2, '1', now() - interval '1 h')",
            None,
            "1 alive, 1 silent",
        ),
    ],
)
async def test_missing_and_silent_workers_are_reported(
    settings: Settings, database: asyncpg.Connection, change: str, found: str, *, ok: bool | None
) -> None:
    await database.execute(change)

    check = (await examined(settings))["workers"]

    assert (check.ok, check.found) == (ok, found)


async def test_a_long_wait_is_a_warning(settings: Settings, database: asyncpg.Connection) -> None:
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, received_at) VALUES ('1', now() - interval '2 h')"
    )

    check = (await examined(settings))["waiting"]

    assert (check.ok, check.found) == (None, "the oldest has waited 2 h")


async def test_a_retry_after_days_is_no_long_wait(settings: Settings, database: asyncpg.Connection) -> None:
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status, received_at, attempt_number)"
        " VALUES ('1', 'queued', now() - interval '3 d', 1)"
    )

    assert (await examined(settings))["waiting"].ok is True


@pytest.mark.parametrize(
    ("name", "changes", "ok"),
    [
        ("API token", {"api_token": None}, None),
        ("API token", {"api_token": None, "api_read_token": SecretStr("long enough for anybody")}, None),
        ("API token", {"api_token": SecretStr("hunter2-hunter2-")}, None),
        ("API token", {"api_read_token": SecretStr("hunter2-hunter2-")}, None),
        ("webhook secret", {"zendesk_webhook_secrets": ()}, True),
        (
            "webhook secret",
            {
                "zendesk_webhook_secrets": (),
                "zendesk_oauth_client_id": None,
                "zendesk_oauth_client_secret": None,
            },
            False,
        ),
        ("download hosts", {"download_private_networks": False, "download_hosts": ("*",)}, None),
        ("download hosts", {"download_private_networks": False, "download_hosts": ("acme.example",)}, None),
        (
            "download hosts",
            {"download_private_networks": False, "download_hosts": ("*.zdusercontent.com",)},
            True,
        ),
        ("alerts", {}, None),
        ("alerts", {"alert_slack_url": "https://hooks.example/hunter2"}, None),
        (
            "alerts",
            {"alert_slack_url": "https://hooks.example/hunter2", "public_url": "https://holdfast.example"},
            True,
        ),
        ("fault points", {"fault_points": Path("/tmp")}, False),
    ],
)
def test_risky_and_incomplete_settings_are_reported(
    settings: Settings, name: str, changes: dict[str, Any], *, ok: bool | None
) -> None:
    check = next(check for check in check_settings(changed(settings, **changes)) if check.name == name)

    assert check.ok is ok
    assert bool(check.advice) != bool(ok)
    assert "hunter2" not in str(check)


async def test_check_prints_lines_and_json(settings: Settings) -> None:
    good = await command(settings, "check")
    bad = await command(
        settings,
        "check",
        "--json",
        ZENDESK_OAUTH_CLIENT_SECRET="hunter2-hunter2-hunter2",
        REDIS_URL="redis://127.0.0.1:1",
    )

    assert (good.returncode, good.stderr) == (0, "")
    assert "ok    postgres: version " in good.stdout
    told = json.loads(bad.stdout)
    assert (bad.returncode, told["ok"]) == (1, False)
    wrong = {check["name"] for check in told["checks"] if check["ok"] is False}
    assert wrong == {"redis", "eviction", "clock of Redis", "zendesk"}
    assert "hunter2" not in bad.stdout + bad.stderr


async def test_check_names_every_wrong_setting(settings: Settings) -> None:
    done = await command(settings, "check", DATABASE_URL="hunter2", PORT="hunter2")
    missing = await command(settings, "check", REDIS_URL="", STORAGE_URL="")

    assert (done.returncode, missing.returncode) == (1, 1)
    assert ["DATABASE_URL:" in done.stdout, "PORT:" in done.stdout] == [True, True]
    assert ["REDIS_URL is not set" in missing.stdout, "STORAGE_URL is not set" in missing.stdout] == [
        True,
        True,
    ]
    assert "hunter2" not in done.stdout + done.stderr


async def test_a_working_target_passes_and_no_document_stays_there(
    settings: Settings, mongodb_server: str
) -> None:
    url = SecretStr(f"{mongodb_server}/archive.emails")

    checks = await examined(settings, sync_url=(url,), public_url="https://holdfast.acme.example")

    assert checks["sync to mongodb"] == Check(
        "sync to mongodb", True, "answers, and accepts reads and writes"
    )
    assert checks["links of the sync"].ok
    assert checks["syncs"].ok
    client: AsyncMongoClient[dict[str, Any]] = await asyncio.to_thread(
        lambda: AsyncMongoClient(mongodb_server)
    )
    assert await client.archive.emails.count_documents({}) == 0
    await client.close()


async def test_an_unreachable_target_fails_and_links_without_a_host_are_a_warning(
    settings: Settings, database: asyncpg.Connection
) -> None:
    urls = ("mongodb://user:hunter2@127.0.0.1:1/archive.emails", "http://127.0.0.1:1/sync")
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, sync_status) VALUES ('1', 'failed')"
    )

    checks = await examined(
        settings, sync_url=tuple(map(SecretStr, urls)), sync_webhook_secret=(SecretStr(SECRET),)
    )

    assert checks["sync to mongodb"].ok is False
    assert "SYNC_URL" in checks["sync to mongodb"].advice
    assert checks["sync to a webhook"].ok is False
    assert "SYNC_URL" in checks["sync to a webhook"].advice
    assert (checks["links of the sync"].ok, checks["links of the sync"].advice[:14]) == (
        None,
        "set PUBLIC_URL",
    )
    assert (checks["syncs"].ok, checks["syncs"].found) == (None, "1 could not be synced")
    assert "hunter2" not in str(checks)
