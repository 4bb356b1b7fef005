"""`holdfast release`: refused settings, warnings, and migrations."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
import trustme
from pydantic import SecretStr

from service.config.settings import Settings
from service.errors import SettingsError
from service.local.zendesk.stand_in import Zendesk
from service.migrations.revisions import judge
from service.resources import check_usable
from service.telemetry.version import commit, full_version, version
from tests.conftest import ROOT, serving
from tests.support.commands import command, typed
from tests.support.proxy import behind_tls, self_signed

AWAY = "mongodb://user:hunter2@127.0.0.1:1/archive.emails"
HOOK = {"SYNC_WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8G"}
SELF_SIGNED = "its certificate is self-signed: REDIS_VERIFY_TLS=false"


@pytest.fixture
async def empty(
    settings: Settings, database_url: str, database: asyncpg.Connection
) -> AsyncIterator[Settings]:
    """Settings with a database that has no tables yet."""
    await database.execute("CREATE DATABASE release")
    url = SecretStr(database_url.replace("/postgres?", "/release?"))
    yield settings.model_copy(update={"database_url": url})
    await database.execute("DROP DATABASE release WITH (FORCE)")


async def tables(settings: Settings) -> int:
    assert settings.database_url
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        return int(await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"))
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("variables", "code", "said"),
    [
        ({"STORAGE_URL": "file:///proc/objects"}, 1, "check STORAGE_URL"),
        ({"SYNC_URL": AWAY}, 1, "check SYNC_URL"),
        ({"SYNC_URL": "http://127.0.0.1:1/hook", **HOOK}, 1, "in SYNC_URL"),
        ({"SENTRY_DSN": "https://key@host/x1"}, 2, "SENTRY_DSN: is not a DSN"),
        (
            {"ZENDESK_WEBHOOK_SECRETS": "", "ZENDESK_OAUTH_CLIENT_ID": "", "ZENDESK_OAUTH_CLIENT_SECRET": ""},
            2,
            "ZENDESK_WEBHOOK_SECRETS is not set",
        ),
        ({"WEB_CONCURRENCY": "many"}, 2, "WEB_CONCURRENCY"),
        ({"RELEASE_TOLERATES": "everything"}, 2, "RELEASE_TOLERATES"),
    ],
)
async def test_release_refuses_a_wrong_setting_and_migrates_nothing(
    empty: Settings, variables: dict[str, str], code: int, said: str
) -> None:
    done = await typed(empty, "release", **variables)

    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert "nothing was migrated" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    assert await tables(empty) == 0


async def test_release_warns_of_tolerated_outages_and_migrates(empty: Settings) -> None:
    done = await command(
        empty,
        "release",
        REDIS_URL="redis://:hunter2@127.0.0.1:1",
        ZENDESK_OAUTH_CLIENT_SECRET="hunter2-hunter2-hunter2",
        SYNC_URL=AWAY,
        RELEASE_TOLERATES="sync",
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for warned in ("redis", "zendesk", "sync to mongodb"):
        assert f"warn  {warned}: " in done.stdout
    assert re.fullmatch(r"Ready: version [\d.]+, commit [0-9a-f]{12}\.", done.stdout.splitlines()[-1])
    assert "hunter2" not in done.stdout + done.stderr
    assert await tables(empty) > 10


@pytest.mark.parametrize(
    ("revision", "code", "said"),
    [
        ("29991231_2359", 0, "The database is newer (29991231_2359) than this program"),
        ("20260204_1549_add_saga", 1, "holdfast takeover --plan"),
    ],
)
async def test_an_unknown_revision_is_one_line(
    settings: Settings, database: asyncpg.Connection, revision: str, code: int, said: str
) -> None:
    now = await database.fetchval("SELECT version_num FROM alembic_version")
    await database.execute("UPDATE alembic_version SET version_num = $1", revision)
    try:
        done = [await typed(settings, word) for word in ("release", "migrate")]
    finally:
        await database.execute("UPDATE alembic_version SET version_num = $1", now)

    assert [each.returncode for each in done] == [code, code]
    assert all(said in each.stderr and each.stderr.count("\n") == 1 for each in done)


@pytest.mark.parametrize(
    ("revisions", "lacking", "kind"),
    [
        ((), (), "behind"),
        (("20250901_0900",), (), "behind"),
        (("20250915_0900",), (), "current"),
        (("20250915_0901",), (), "newer"),
        (("20260915_0900_with_a_name",), (), "newer"),
        (("20250915_0901",), ("incoming_emails.subject",), "too_new"),
        ((), ("attempts.id", "incoming_emails.id"), "empty"),
        ((), ("attempts.id",), "other_system"),
        (("20250915_0901",), ("attempts.id",), "other_system"),
        (("20250901_0901",), (), "other_system"),
        (("add_saga",), (), "other_system"),
        (("20250915_0900", "add_saga"), (), "other_system"),
        (("add_saga",), ("attempts.id", "incoming_emails.id"), "other_program"),
    ],
)
def test_only_a_later_revision_on_our_own_tables_is_a_newer_one(
    revisions: tuple[str, ...], lacking: tuple[str, ...], kind: str
) -> None:
    known = {"20250901_0900": "20250901_0900_create", "20250915_0900": "20250915_0900_add"}

    assert judge(revisions, lacking, known).kind == kind


async def test_a_self_signed_certificate_of_redis_is_reported_once_with_the_setting(
    settings: Settings, zendesk: Zendesk, tmp_path: Path
) -> None:
    assert settings.redis_url
    path = Path(urlsplit(settings.redis_url.get_secret_value()).path)
    certificate = await asyncio.to_thread(self_signed, tmp_path)
    async with behind_tls(path, certificate, asks_first=False) as port:
        changed = settings.model_copy(update={"redis_url": SecretStr(f"rediss://127.0.0.1:{port}")})
        refused = await typed(changed, "release")
        checked = await typed(changed, "check")
        accepted = await typed(changed, "check", REDIS_VERIFY_TLS="false")
        async with serving(changed, zendesk) as client:
            ready = await client.get("/readyz", status=503)

    assert refused.returncode == 1
    assert SELF_SIGNED in refused.stdout
    assert "set REDIS_VERIFY_TLS=false" in refused.stdout
    assert checked.stdout.count("certificate is self-signed") == 1
    assert "wrong clock of Redis: not checked\n      see redis\n" in checked.stdout
    assert ", with a certificate that is not checked" in accepted.stdout
    assert SELF_SIGNED in ready["checks"]["redis"]["error"]


async def test_a_tls_failure_of_postgres_gives_advice(settings: Settings, tmp_path: Path) -> None:
    assert settings.database_url
    sockets = Path(parse_qs(urlsplit(settings.database_url.get_secret_value()).query)["host"][0])
    certificate = await asyncio.to_thread(self_signed, tmp_path)
    await asyncio.to_thread(trustme.CA().cert_pem.write_to_path, tmp_path / "other.pem")
    async with behind_tls(sockets / ".s.PGSQL.5432", certificate, asks_first=True) as port:
        url = f"postgres://postgres:any@127.0.0.1:{port}/postgres"
        verify = f"{url}?sslmode=verify-full&sslrootcert={tmp_path}/other.pem"
        verified = await command(settings, "check", DATABASE_URL=verify)
        migrated = await command(settings, "migrate", DATABASE_URL=verify)

    advice = "its certificate is self-signed: sslmode=require in DATABASE_URL accepts it"
    assert (verified.returncode, migrated.returncode) == (1, 1)
    assert advice in verified.stdout
    assert advice in migrated.stderr


def test_sentrys_own_sdk_reads_the_dsn(settings: Settings) -> None:
    with pytest.raises(SettingsError, match=r"^SENTRY_DSN: is not a DSN"):
        check_usable(settings.model_copy(update={"sentry_dsn": SecretStr("https://key@host/x1")}))


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("HEROKU_SLUG_COMMIT", "0123456789abcdef0123456789abcdef01234567", "0123456789ab"),
        ("SOURCE_VERSION", "0123456789abcdef0123456789abcdef01234567\n", "0123456789ab"),
        ("HEROKU_BUILD_COMMIT", "<script>", None),
    ],
)
def test_the_commit_comes_from_the_platform(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str | None
) -> None:
    commit.cache_clear()
    of_checkout = commit()
    monkeypatch.setenv(variable, value)
    commit.cache_clear()
    try:
        found, whole = commit(), full_version()
    finally:
        commit.cache_clear()

    assert found == (expected or of_checkout)
    assert whole.startswith(version())


def test_app_json_describes_existing_settings() -> None:
    """https://devcenter.heroku.com/articles/app-json-schema."""
    app = json.loads((ROOT / "app.json").read_text())
    vendors = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"}

    assert set(app) <= {
        *(
            "name",
            "description",
            "keywords",
            "website",
            "repository",
            "logo",
            "success_url",
            "scripts",
            "env",
        ),
        *("formation", "addons", "buildpacks", "environments", "stack", "image"),
    }
    assert {name.upper() for name in Settings.model_fields} | vendors >= set(app["env"])
    assert all(asked["description"] for asked in app["env"].values())
    assert all(
        set(asked) <= {"description", "value", "required", "generator"} for asked in app["env"].values()
    )
    assert set(app["formation"]) == {"web", "worker"}
    assert app["env"]["REDIS_VERIFY_TLS"]["value"] == "false"
