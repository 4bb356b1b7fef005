"""A stand-in for Heroku: an app, its dynos and add-ons, with the limits of the plans that README names."""

import asyncio
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
from aiohttp import ClientSession

from service.local.servers import free_port
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from tests.conftest import API_TOKEN, eventually
from tests.support import installs
from tests.support.proxy import behind_tls, self_signed
from tests.support.s3 import ACCESS_KEY, SECRET, Bucket

# heroku-postgresql:essential-0 and heroku-redis:mini.
CONNECTIONS = 20
# Between two webhooks of each of three senders.
PAUSE_SECONDS = 0.4


@dataclass
class App:
    """An app of the platform: its config vars, its slug and its dynos."""

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
        """Run a command on a one-off dyno; return its exit code and its output."""
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

    async def release_slug(self, slug: Path) -> str:
        """Run the release of a slug beside the dynos of the previous one; return its output."""
        before, self.slug = self.slug, slug
        code, said = await self.release()
        if code:
            self.slug = before
            raise AssertionError(said)
        return said

    async def restart(self) -> None:
        await self.down()
        await self.up()

    async def deploy(self, slug: Path) -> str:
        said = await self.release_slug(slug)
        await self.restart()
        return said

    async def get(self, path: str) -> Any:
        """Send a request with an operator's token."""
        headers = {"Authorization": f"Bearer {API_TOKEN}"}
        async with (
            ClientSession(headers=headers) as session,
            session.get(f"http://127.0.0.1:{self.port}{path}") as response,
        ):
            assert response.status == 200
            return await response.json()

    async def lists_emails(self) -> bool:
        return bool((await self.get("/api/v1/emails?status=completed"))["emails"])


@dataclass
class Load:
    """Send webhooks continuously, and count the status codes of the responses."""

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
        """Send webhooks during the block; at its end each one has a response."""
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
    """Provide the add-ons with their limits, and an app with the config vars of the recipe."""
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
            # It will never know the tickets of these webhooks, so that no attempt needs to wait for them.
            "EARLY_SECONDS": "0",
            "HOST": "127.0.0.1",
        }
        app = App(variables, directory)
        stack.push_async_callback(app.down)
        yield app, admin
