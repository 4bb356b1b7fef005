"""A wrong setting stops a process at start, with one line that names it and shows no value."""

import asyncio
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from blockbuster import BlockBuster
from pydantic import SecretStr
from pydantic_core import PydanticUndefined
from sqlalchemy.ext.asyncio import AsyncEngine

from service.config.reading import read_settings, read_web_settings
from service.config.settings import PUBLIC_TEST_SECRET, Settings
from service.errors import SettingsError, Transient
from service.postgres.engine import connect, create_engine
from service.queue.arq_queue import create_redis
from service.worker.settings import _redis_settings
from tests.conftest import ROOT
from tests.support import forked

GOOD = {
    "DATABASE_URL": "postgres://user:pg-hunter2@127.0.0.1:1/name",
    "REDIS_URL": "redis://:redis-hunter2@127.0.0.1:1/0",
    "STORAGE_URL": "s3://bucket/prefix",
    "ZENDESK_WEBHOOK_SECRETS": "secret-of-hunter2",
}
WHSEC = "whsec_aG9sZGZhc3QtaG9sZGZhc3QtaG9sZGZhc3QtaG9sZGZhc3Q="
NAMES = {field.upper() for field in Settings.model_fields} | {"DYNO"}

Read = Callable[..., Settings]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Read the settings in an environment that has nothing else."""

    def read(*needed: str, **variables: str) -> Settings:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return read_settings(*needed)

    return read


def start(words: list[str], variables: dict[str, str]) -> forked.Done:
    clean = {name: value for name, value in os.environ.items() if name not in NAMES}
    return forked.run(words, {**clean, **variables}, ROOT)


WEB = ["service", "web"]
ARQ = ["arq", "service.worker.WorkerSettings"]
ALEMBIC = ["alembic", "upgrade", "head"]


@pytest.mark.parametrize(
    ("words", "variable", "value", "says"),
    [
        (WEB, "DATABASE_URL", None, "is not set"),
        (WEB, "REDIS_URL", "", "is not set"),
        (WEB, "STORAGE_URL", None, "is not set"),
        (WEB, "ZENDESK_WEBHOOK_SECRETS", " , ", "is not set: there are only"),
        (WEB, "ZENDESK_WEBHOOK_SECRETS", PUBLIC_TEST_SECRET, "public test secret"),
        (WEB, "ZENDESK_WEBHOOK_SECRETS", " \n", "is not set"),
        (WEB, "ZENDESK_WEBHOOK_SECRETS", "a-long-and-good-one,hunter2", "fewer than 16 characters"),
        (WEB, "API_TOKEN", " \n", "blank"),
        (WEB, "API_TOKEN", " hunter2         ", "fewer than 16 characters"),
        (WEB, "API_READ_TOKEN", "hunter2hunter2-", "fewer than 16 characters"),
        (ARQ, "API_READ_TOKEN", "\t", "blank"),
        (WEB, "PORT", "hunter2", "valid integer"),
        (WEB, "WEB_CONCURRENCY", "two", "valid integer"),
        (ARQ, "REDIS_URL", None, "is not set"),
        (ARQ, "STORAGE_URL", "ftp://hunter2", "must begin with file:// or s3://"),
        (["arq", "--check", ARQ[1]], "DATABASE_URL", "hunter2", "must begin with postgres://"),
        (["service", "worker"], "MAX_RETRIES", "-1", "greater than or equal to 0"),
        (["service", "status"], "REDIS_URL", "http://hunter2", "must begin with redis:// or rediss://"),
        (ALEMBIC, "DATABASE_URL", "postgres://u:hunter2/3@host/name", "is not a URL; in a password, write /"),
    ],
)
def test_no_entry_point_starts_with_a_missing_or_wrong_setting(
    words: list[str], variable: str, value: str | None, says: str, tmp_path: Path
) -> None:
    variables = {**GOOD, variable: value}

    done = start(words, {name: value for name, value in variables.items() if value is not None})

    assert re.match(rf"{variable}(:| is not set)", done.stderr), done.stderr
    assert says in done.stderr
    assert f"for example {variable}=" in done.stderr
    assert done.stderr.count("\n") == 1
    assert (done.returncode, done.stdout) == (2, "")
    assert "hunter2" not in done.stderr
    assert PUBLIC_TEST_SECRET not in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("DATABASE_URL", "sqlite:///file", "must begin with"),
        ("DATABASE_URL", "postgres:host", "must begin with"),
        ("DATABASE_URL", "postgres://u:p#hunter2@host/name", "is not a URL"),
        ("DATABASE_URL", "postgres://u:p@host:hunter2/name", "is not a URL"),
        ("DATABASE_URL", "postgres://u:p@hunter2@host/name", "is not a URL"),
        ("DATABASE_URL", "postgres://u:p@host/name?sslmode=hunter2", "sslmode must be"),
        ("DATABASE_URL", "postgres://u:p@a,b/name?target_session_attrs=hunter2", "target_session_attrs must"),
        ("DATABASE_URL", "postgres://u:p\udcff@host/name", "is not text in UTF-8"),
        ("HOST", "\udcff", "is not text in UTF-8"),
        ("WORKER_NAME", "worker\udcff", "is not text in UTF-8"),
        ("DOWNLOAD_HOSTS", "a.example,\udcff", "is not text in UTF-8"),
        ("REDIS_URL", "host:6379", "must begin with"),
        ("REDIS_URL", "redis://:hunter2?@host", "is not a URL"),
        ("STORAGE_URL", "/var/objects", "must begin with"),
        ("STORAGE_URL", "file://objects", "must be an absolute path"),
        ("STORAGE_URL", "s3://bucket/a?hunter2=b", "must have neither ? nor #"),
        ("STORAGE_URL", "file:///objects#hunter2", "must have neither ? nor #"),
        ("STORAGE_SIGN_SECONDS", "-1", "greater than or equal to 0"),
        ("STORAGE_SIGN_SECONDS", "604801", "less than or equal to 604800"),
        ("ZENDESK_URL", "acme.zendesk.com", "must begin with https://"),
        ("ZENDESK_URL", "https://acme\\@hunter2.example", "is not a URL"),
        ("ZENDESK_URL", "https://hunter2:ü..example", "is not a URL"),
        ("ZENDESK_URL", "https://ü..example", "is not a URL"),
        ("PUBLIC_URL", "https://acme\\@hunter2.example", "is not a URL"),
        ("ALERT_SLACK_URL", "https://hooks\\@hunter2.example", "is not a URL"),
        ("TIMESTAMP_URL", "https://tsa..ü", "is not a URL"),
        ("SYNC_URL", "https://erp\\@hunter2.example", "must begin with mongodb://"),
        ("ZENDESK_SUBDOMAIN", "acme.zendesk.com", "pattern"),
        ("ZENDESK_WEBHOOK_SECRETS", f"good,{PUBLIC_TEST_SECRET}", "public test secret"),
        ("DOWNLOAD_HOSTS", ",", "at least 1 item"),
        ("DOWNLOAD_PRIVATE_NETWORKS", "hunter2", "valid boolean"),
        ("PORT", "65536", "less than or equal to 65535"),
        ("PUBLIC_URL", "holdfast.acme.example", "must begin with https://"),
        ("SMTP_URL", "mail.acme.example:587", "must begin with smtp:// or smtps://"),
        ("SMTP_URL", "smtp://user:hunter2@/", "names no host"),
        ("SMTP_URL", "smtp://user:p#hunter2@host", "is not a URL"),
        ("ALERT_EMAIL_TO", "Ops <hunter2@acme.example>", "plain e-mail addresses"),
        ("ALERT_EMAIL_TO", "a@acme.example\nBcc: hunter2@acme.example", "plain e-mail addresses"),
        ("ALERT_EMAIL_FROM", "hunter2", "plain e-mail addresses"),
        ("ALERT_SLACK_URL", "hooks.slack.com/hunter2", "must begin with https://"),
        ("ALERT_WEBHOOK_SECRET", "hunter2", "is not whsec_"),
        ("ALERT_WEBHOOK_SECRET", "whsec_aHVudGVyMg==", "24 to 64 bytes"),
        ("SYNC_WEBHOOK_SECRET", "hunter2", "is not whsec_"),
        ("SYNC_WEBHOOK_SECRET", f"{WHSEC},whsec_aHVudGVyMg==", "24 to 64 bytes"),
        ("SYNC_URL", "https://erp.example/x;mongodb://u:hunter2@h/d.c", "a second address"),
        ("SYNC_URL", "https://erp.example/x|mongodb://u:hunter2@h/d.c", "a second address"),
        ("SYNC_URL", "https://erp.example/x?a=1;mongodb+srv://u:hunter2@h/d.c", "a second address"),
        ("SYNC_URL", "mongodb://u:hunter2@h/d.c;https://erp.example/x", "a second address"),
        ("ALERT_WAITING_SECONDS", "0", "greater than 0"),
        ("ALERT_SIGNATURE_FAILURES", "0", "greater than or equal to 1"),
        ("WEB_CONCURRENCY", "0", "greater than or equal to 1"),
        ("MAX_ATTACHMENT_BYTES", "50MB", "valid integer"),
        ("MAX_WEBHOOK_BYTES", "0", "greater than or equal to 1"),
        ("MAX_RETRIES", "many", "valid integer"),
        ("LEASE_SECONDS", "0", "greater than or equal to 1"),
        ("SHUTDOWN_SECONDS", "60", "less than or equal to 15"),
        ("DATABASE_POOL_SIZE", "0", "greater than or equal to 1"),
        ("LOG_FORMAT", "xml", "'json' or 'console'"),
        ("LOG_LEVEL", "hunter2", "'INFO'"),
    ],
)
def test_a_wrong_setting_is_one_line_with_an_example(read: Read, name: str, value: str, reason: str) -> None:
    with pytest.raises(SettingsError) as raised:
        read(**{**GOOD, name: value})

    line = str(raised.value)
    description = Settings.model_fields[name.lower()].description
    assert re.fullmatch(rf"{name}: .+ \(.+; for example {name}=.+\)", line), line
    assert reason in line
    assert str(description) in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        (
            {"ZENDESK_EMAIL": "agent@acme.example", "ZENDESK_SUBDOMAIN": "acme"},
            "ZENDESK_API_TOKEN is not set",
        ),
        ({"ZENDESK_API_TOKEN": "hunter2", "ZENDESK_SUBDOMAIN": "acme"}, "ZENDESK_EMAIL is not set"),
        ({"ZENDESK_API_TOKEN": "hunter2", "ZENDESK_EMAIL": "a@b.example"}, "ZENDESK_SUBDOMAIN is not set"),
        ({"ZENDESK_OAUTH_TOKEN": "hunter2"}, "ZENDESK_SUBDOMAIN is not set"),
        ({"ALERT_EMAIL_TO": "a@hunter2.example"}, "SMTP_URL is not set, but ALERT_EMAIL_TO needs it"),
        (
            {"ALERT_EMAIL_TO": "a@b.example", "SMTP_URL": "smtp://u:hunter2@host"},
            "ALERT_EMAIL_FROM is not set, but ALERT_EMAIL_TO needs it",
        ),
        ({"ALERT_WEBHOOK_URL": "https://hunter2.example"}, "ALERT_WEBHOOK_SECRET is not set"),
    ],
)
def test_incomplete_credentials_are_refused(read: Read, variables: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{named}") as raised:
        read(**GOOD, **variables)

    assert "hunter2" not in str(raised.value)


def test_a_dyno_refuses_the_disk_that_it_loses_daily(read: Read) -> None:
    disk = {**GOOD, "STORAGE_URL": "file:///app/objects"}

    assert read(**disk).storage_url == "file:///app/objects"
    assert read(**GOOD, DYNO="web.1").storage_url == "s3://bucket/prefix"
    with pytest.raises(SettingsError, match=r"^STORAGE_URL: a dyno's disk is lost daily"):
        read(**disk, DYNO="web.1")


def test_an_empty_variable_counts_as_not_set(read: Read) -> None:
    assert read(**dict.fromkeys(NAMES, "")) == read()


def test_lists_are_comma_separated_and_ignore_blanks(read: Read) -> None:
    new, old = "new-secret-of-16==", "old-secret-of-16=="
    settings = read(ZENDESK_WEBHOOK_SECRETS=f" {new}, ,{old}\n,", DOWNLOAD_HOSTS="*.zendesk.com , 127.0.0.1")

    assert [secret.get_secret_value() for secret in settings.zendesk_webhook_secrets] == [new, old]
    assert settings.download_hosts == ("*.zendesk.com", "127.0.0.1")


def test_the_sync_accepts_several_secrets_during_a_rotation(read: Read) -> None:
    secrets = read(SYNC_WEBHOOK_SECRET=f" {WHSEC} ,{WHSEC[:-2]}g=,").sync_webhook_secret

    assert [secret.get_secret_value() for secret in secrets] == [WHSEC, f"{WHSEC[:-2]}g="]


@pytest.mark.parametrize(
    ("value", "addresses"),
    [
        ("https://h/x,", ["https://h/x"]),
        (", https://h/x ,\n", ["https://h/x"]),
        ("mongodb://h/d.c,", ["mongodb://h/d.c"]),
        ("mongodb://u:p@h1:1,h2:2/d.c?w=1 , https://h/x", ["mongodb://u:p@h1:1,h2:2/d.c?w=1", "https://h/x"]),
        ("https://h/x?next=http://127.0.0.1", ["https://h/x?next=http://127.0.0.1"]),
    ],
)
def test_targets_are_comma_separated_and_ignore_stray_commas(
    read: Read, value: str, addresses: list[str]
) -> None:
    """Commas also separate the hosts of one MongoDB address."""
    settings = read(SYNC_URL=value, SYNC_WEBHOOK_SECRET=WHSEC)

    assert [address.get_secret_value() for address in settings.sync_url] == addresses


def test_the_account_comes_from_the_subdomain_or_an_address(read: Read) -> None:
    assert read().account_url is None
    assert read(ZENDESK_SUBDOMAIN="acme").account_url == "https://acme.zendesk.com"
    assert (
        read(ZENDESK_SUBDOMAIN="acme", ZENDESK_URL="http://127.0.0.1:1/").account_url == "http://127.0.0.1:1"
    )


@pytest.mark.parametrize("name", ["API_TOKEN", "API_READ_TOKEN"])
def test_whitespace_around_a_token_is_removed(read: Read, name: str) -> None:
    settings = read(**{name: " \tsixteen letters.\r\n"})

    assert getattr(settings, name.lower()) == SecretStr("sixteen letters.")


CLIENT = {"ZENDESK_OAUTH_CLIENT_ID": "holdfast", "ZENDESK_OAUTH_CLIENT_SECRET": "secret"}
AGENT = {"ZENDESK_EMAIL": "agent@acme.example", "ZENDESK_API_TOKEN": "token"}


@pytest.mark.parametrize("credentials", [CLIENT, AGENT, {"ZENDESK_OAUTH_TOKEN": "token"}])
def test_whitespace_around_credentials_for_zendesk_is_removed(
    read: Read, credentials: dict[str, str]
) -> None:
    """Files and consoles add a line end: it made a header of HTTP that no client sends."""
    padded = {name: f" \t{value}\r\n" for name, value in credentials.items()}

    assert read(ZENDESK_SUBDOMAIN="acme", **padded) == read(ZENDESK_SUBDOMAIN="acme", **credentials)


@pytest.mark.parametrize("name", [*CLIENT, *AGENT, "ZENDESK_OAUTH_TOKEN"])
@pytest.mark.parametrize(("value", "reason"), [(" \n", "is blank"), ("hunter2\nhunter2", "line end")])
def test_credentials_that_are_none_are_refused(read: Read, name: str, value: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{name}: .*{reason}") as raised:
        read(**{**GOOD, **CLIENT, **AGENT, "ZENDESK_SUBDOMAIN": "acme", name: value})

    assert "hunter2" not in str(raised.value)


def test_the_read_only_token_differs_from_the_operators_token(read: Read) -> None:
    with pytest.raises(SettingsError, match=r"^API_READ_TOKEN: is the same as API_TOKEN") as caught:
        read(**GOOD, API_TOKEN="hunter2-hunter2-hunter2", API_READ_TOKEN=" hunter2-hunter2-hunter2\n")

    assert "hunter2" not in str(caught.value)


def test_settings_are_frozen_and_show_no_secret(read: Read) -> None:
    secrets = {
        "API_TOKEN": "api-token-hunter2",
        "ZENDESK_API_TOKEN": "zendesk-hunter2",
        "ZENDESK_OAUTH_TOKEN": "oauth-hunter2",
    }
    settings = read(**GOOD, **secrets, ZENDESK_EMAIL="agent@acme.example", ZENDESK_SUBDOMAIN="acme")

    assert settings.api_token == SecretStr("api-token-hunter2")
    for shown in (repr(settings), str(settings), repr(settings.model_dump()), settings.model_dump_json()):
        assert "hunter2" not in shown
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


async def connect_once(engine: AsyncEngine) -> None:
    with pytest.raises(Transient):
        async with connect(engine):
            pass
    await engine.dispose()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
@pytest.mark.parametrize(("sslmode", "code"), [("require", 80877103), ("disable", 196608)])
async def test_sslmode_of_postgres_urls_has_its_standard_meaning(
    scheme: str, sslmode: str, code: int, non_blocking: BlockBuster
) -> None:
    """With sslmode=require the first thing sent asks for TLS, with disable it is protocol 3.0.

    https://www.postgresql.org/docs/current/protocol-message-formats.html
    """
    non_blocking.deactivate()  # asyncpg looks for certificates in the home directory
    sent: asyncio.Queue[bytes] = asyncio.Queue()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent.put_nowait(await reader.readexactly(8))
        writer.write(b"N")  # no TLS here
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"{scheme}://user:hunter2@127.0.0.1:{port}/name?sslmode={sslmode}"
        settings = Settings(database_url=SecretStr(url))
        assert settings.database_url

        await connect_once(create_engine(settings.database_url.get_secret_value(), pool_size=1, seconds=5))

        assert struct.unpack("!II", sent.get_nowait())[1] == code


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host", {"host": "host"}),
        ("redis://host:6380/2", {"host": "host", "port": 6380, "db": 2}),
        ("redis://:p%40%2F%3A%25@host", {"host": "host", "password": "p@/:%"}),
        ("redis://us%C3%A9r:p@host?db=3", {"host": "host", "username": "usér", "password": "p", "db": 3}),
        (
            "rediss://u:p@host:1",
            {"host": "host", "port": 1, "username": "u", "password": "p", "tls": "required"},
        ),
        ("rediss://:p@host?ssl_cert_reqs=none", {"host": "host", "password": "p", "tls": "none"}),
        ("unix:///tmp/a%20b.sock", {"path": "/tmp/a b.sock"}),
        ("unix://:p%40@/tmp/r.sock?db=1", {"path": "/tmp/r.sock", "password": "p@", "db": 1}),
    ],
)
async def test_both_redis_clients_parse_a_url_alike(
    read: Read, url: str, expected: dict[str, str | int]
) -> None:
    """`arq --check` has a client of its own; it must connect to the same server as the worker."""
    dsn = read(REDIS_URL=url).redis_dsn
    pool = create_redis(dsn, pool_size=2).connection_pool
    check = _redis_settings(dsn)

    connection = pool.connection_class(**pool.connection_kwargs)
    ours = {name: getattr(connection, name, None) for name in ("host", "port", "path", "db")}
    ours |= {name: pool.connection_kwargs.get(name) for name in ("username", "password")}
    is_tls = pool.connection_class.__name__ == "SSLConnection"
    ours["tls"] = pool.connection_kwargs.get("ssl_cert_reqs", "required") if is_tls else None
    is_unix = check.unix_socket_path is not None
    theirs = {
        "host": None if is_unix else check.host,
        "port": None if is_unix else check.port,
        "path": check.unix_socket_path,
        "db": check.database,
        "username": check.username,
        "password": check.password,
        "tls": check.ssl_cert_reqs if check.ssl else None,
    }

    assert theirs == ours
    defaults = {"db": 0} if is_unix else {"port": 6379, "db": 0}
    assert {name: value for name, value in ours.items() if value is not None} == defaults | expected


@pytest.mark.parametrize("url", ["rediss://:p@host", "rediss://:p@host?db=2"])
def test_a_self_signed_redis_is_accepted_on_request(read: Read, url: str) -> None:
    for verify, expected in (("", "required"), ("true", "required"), ("false", "none")):
        dsn = read(REDIS_URL=url, REDIS_VERIFY_TLS=verify).redis_dsn
        ours = create_redis(dsn, pool_size=2).connection_pool.connection_kwargs

        assert ours.get("ssl_cert_reqs", "required") == expected
        assert _redis_settings(dsn).ssl_cert_reqs == expected
        assert ours.get("db", 0) == _redis_settings(dsn).database
    assert read(REDIS_URL="redis://host", REDIS_VERIFY_TLS="false").redis_dsn == "redis://host"


def example() -> dict[str, tuple[str | None, str]]:
    """Read `.env.example`: the value of each variable (None if commented out) and its description."""
    found: dict[str, tuple[str | None, str]] = {}
    said: list[str] = []
    for line in (ROOT / ".env.example").read_text().splitlines():
        if variable := re.fullmatch(r"(# )?([A-Z][A-Z_]*)=(.*)", line):
            assert variable[2] not in found, f"{variable[2]} is there twice"
            found[variable[2]] = (None if variable[1] else variable[3], " ".join(said))
            said = []
        elif line.startswith("# ") and not line.startswith("# ──"):
            said.append(line.removeprefix("# "))
        else:
            said = []
    return found


@pytest.mark.parametrize(
    "credentials",
    [
        {"ZENDESK_OAUTH_CLIENT_ID": "holdfast", "ZENDESK_OAUTH_CLIENT_SECRET": "hunter2"},
        {"ZENDESK_OAUTH_TOKEN": "hunter2"},
        {"ZENDESK_EMAIL": "agent@acme.example", "ZENDESK_API_TOKEN": "hunter2"},
    ],
)
def test_web_needs_a_signing_secret_or_credentials_to_fetch_it(
    read: Read, credentials: dict[str, str]
) -> None:
    without = {name: value for name, value in GOOD.items() if name != "ZENDESK_WEBHOOK_SECRETS"}
    read(**without)
    with pytest.raises(SettingsError, match="ZENDESK_WEBHOOK_SECRETS is not set"):
        read_web_settings()
    read(**without, ZENDESK_SUBDOMAIN="acme", **credentials)

    assert read_web_settings().zendesk_webhook_secrets == ()


def test_env_example_describes_every_setting_and_has_no_secret() -> None:
    shown = example()

    assert set(shown) == {field.upper() for field in Settings.model_fields}
    for name, (value, sentence) in shown.items():
        assert re.fullmatch(r"[A-Z].{15,}\.", sentence), f"{name}: {sentence}"
        assert not value, f"{name} has a value"


def test_env_example_shows_the_defaults(read: Read) -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    defaults = dict(
        line.removeprefix("# ").split("=", 1) for line in lines if re.match(r"# [A-Z][A-Z_]*=", line)
    )

    with_default = {
        field.upper()
        for field, about in Settings.model_fields.items()
        if about.default not in {None, (), PydanticUndefined}
    }
    assert set(defaults) == with_default
    assert read(**defaults) == read()


def test_a_shell_can_load_env_example(tmp_path: Path) -> None:
    filled = re.sub(r"^# ([A-Z][A-Z_]*=)", r"\1", (ROOT / ".env.example").read_text(), flags=re.MULTILINE)
    for name, value in GOOD.items():
        filled = filled.replace(f"\n{name}=\n", f"\n{name}={value}\n")
    (tmp_path / ".env").write_text(filled)
    code = (
        "from service.config.reading import read_settings; print(read_settings('storage_url').download_hosts)"
    )

    done = subprocess.run(
        ["/bin/sh", "-ec", 'set -a; . ./.env; exec "$0" -c "$1"', sys.executable, code],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name not in NAMES},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("('*.zdusercontent.com',)\n", "")
