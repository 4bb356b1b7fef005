"""Real servers for every test: Postgres built by the migrations, Valkey, and a Zendesk that speaks HTTP."""

import asyncio
import gc
import os
import signal
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import uuid4

import asyncpg
import hypothesis
import pytest
import pytest_asyncio
from aiohttp import ClientSession, web
from alembic.config import Config
from alembic.config import main as alembic
from alembic.script import ScriptDirectory
from arq.worker import Worker, create_worker
from blockbuster import BlockBuster
from pydantic import SecretStr
from pymongo import AsyncMongoClient

from service.config.settings import Settings
from service.local.servers import has_mongodb, mongodb, postgres, valkey
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources, open_resources
from service.telemetry import logs
from service.web.app import create_app
from service.web.handling.keys import RES
from service.web.plain_webhooks import Runner
from service.worker.settings import worker_settings
from tests.support.erasing import Eraser
from tests.support.examples import examples
from tests.support.forked import Program, end_server
from tests.support.processes import left_with, wait_for
from tests.support.s3 import ACCESS_KEY, SECRET, Bucket, proxied, s3
from tests.support.statements import share_compiled_statements

pytest_plugins = [
    "tests.support.browser",
    "tests.support.cpu",
    "tests.support.left_open",
    "tests.support.schedule",
]

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent
API_TOKEN = "api-token-of-the-tests"
# A table with a foreign key stands before the table that it refers to.
TABLES = (
    "erasures, tombstones, erasure_salts, receipt_entries, removed_emails, objects_to_remove, loose_objects, receipts,"
    " attachments, attempts, messages, announcements, merged_emails, email_words, incoming_emails, tickets, api_budgets,"
    " source_emails, backfills, sources, suspended_emails, refused_tickets, signing_secrets, connections,"
    " quarantined_webhooks, quarantine_corrections, ignored_webhooks, operator_actions, bulk_retries, workers,"
    " alert_deliveries, alerts, alert_watch, reconciliation_findings, reconciliations, ended_sessions, logins,"
    " held_emails, holds, retention_rules, saved_filters, acknowledgements,"
    " evidence_entries, evidence_leaves, evidence_nodes, evidence_log, evidence_heads, evidence_verifications"
)
# Truncating takes 100 ms for the files of all indexes, deleting a few rows takes 1 ms. Tables with many rows are
# truncated all the same, so that the planner forgets their size.
EMPTY = f"""
    DO $$
    DECLARE
        name text;
        rows int;
    BEGIN
        FOREACH name IN ARRAY string_to_array('{TABLES}', ', ') LOOP
            EXECUTE format('SELECT count(*) FROM (SELECT FROM %I LIMIT 200) AS few', name) INTO rows;
            IF rows = 200 THEN
                TRUNCATE {TABLES};
            ELSIF rows > 0 THEN
                EXECUTE format('DELETE FROM %I', name);
            END IF;
        END LOOP;
        PERFORM setval(format('%I', sequencename)::regclass, 1, false) FROM pg_sequences WHERE schemaname = 'public';
    END $$
"""

# Commands print times in the reader's zone.
os.environ["TZ"] = "UTC"
time.tzset()

# Processes that the tests start share compiled modules.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell ignores Ctrl-C for background processes and their children; tests need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# On a busy machine, the time of an example means nothing.
hypothesis.settings.register_profile(
    "unhurried",
    max_examples=examples(40),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("unhurried")

share_compiled_statements()


def pytest_collection_finish() -> None:
    """Let collections skip the loaded modules and the collected tests, and be rarer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture(scope="session", autouse=True)
def leaves_no_process() -> Iterator[None]:
    """Fail a session that leaves processes behind. Each inherits a mark in its environment."""
    mark = f"HOLDFAST_TESTS={uuid4().hex}"
    name, _, value = mark.partition("=")
    os.environ[name] = value
    yield
    del os.environ[name]
    end_server()
    with suppress(AssertionError):  # a browser takes a moment
        wait_for(lambda: not left_with(mark), seconds=10)
    assert left_with(mark) == []


@pytest.fixture(scope="session")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres(tmp_path_factory.mktemp("postgres")) as url:
        # With a password in the URL, asyncpg reads no ~/.pgpass (which would block the event loop).
        url = url.replace("postgres@", "postgres:any@")
        asyncio.run(do_not_wait_for_the_disk(url))
        migrate(url, "upgrade", "head")
        yield url


async def do_not_wait_for_the_disk(url: str) -> None:
    """Turn off fsync: a commit survives a crash of Postgres, and no test crashes the machine."""
    connection = await asyncpg.connect(url)
    await connection.execute("ALTER SYSTEM SET fsync = off")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


def migrate(url: str, *arguments: str) -> None:
    """Run alembic as the release phase does, but in this process: nothing has to be imported."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # alembic's own
        patch.setenv("DATABASE_URL", url)
        loaded = migrations()
        patch.setattr(ScriptDirectory, "from_config", lambda _: loaded)
        alembic(["-c", str(ROOT / "alembic.ini"), *arguments])


@cache
def migrations() -> ScriptDirectory:
    """Load the migrations once: they take longer to load than one takes to run."""
    return ScriptDirectory.from_config(Config(ROOT / "alembic.ini"))


@pytest.fixture(scope="session")
def blockbuster() -> BlockBuster:
    """Find all blocking calls once: that takes longer than to replace them."""
    blockbuster = BlockBuster()
    for call in ("os.stat", "io.TextIOWrapper.read", "io.BufferedReader.read"):
        # Writing a traceback reads the source; that is rare and short.
        blockbuster.functions[call].can_block_in("linecache.py", {"checkcache", "updatecache"})
    # PyMongo looks once for each server whether it runs in a container.
    blockbuster.functions["os.stat"].can_block_in("pool_options.py", {"get_container_env_info"})
    return blockbuster


@pytest.fixture(autouse=True)
def non_blocking(blockbuster: BlockBuster) -> Iterator[BlockBuster]:
    """Fail a test that blocks the event loop; log as production does."""
    logs.configure("json", "INFO")
    blockbuster.activate()
    yield blockbuster
    blockbuster.deactivate()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def eraser(database_url: str) -> AsyncIterator[Eraser]:
    eraser = Eraser(database_url, EMPTY)
    yield eraser
    await eraser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def no_rows(eraser: Eraser) -> None:
    """Empty the database."""
    await eraser.erase()


@pytest.fixture
async def database(database_url: str, no_rows: None) -> AsyncIterator[asyncpg.Connection]:
    """Connect to a database without rows."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture
async def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bucket]:
    """Make an empty bucket, and set the usual variables to reach it."""
    async with proxied(s3_server) as bucket:
        monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        yield bucket


@pytest.fixture(scope="session")
def mongodb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a server of MongoDB's protocol."""
    if not has_mongodb():
        pytest.skip("there is no wheel of a server of MongoDB's protocol for this Python")
    with mongodb(tmp_path_factory.mktemp("mongodb"), "--enable-test-commands") as url:
        yield url


@pytest.fixture
async def documents(mongodb_server: str) -> AsyncIterator[Any]:
    """Open the empty collection past the service."""
    client: AsyncMongoClient[dict[str, Any]]
    client = await asyncio.to_thread(lambda: AsyncMongoClient(mongodb_server, tz_aware=True))
    await client.holdfast.emails.drop()
    yield client.holdfast.emails
    await client.close()


@pytest.fixture
async def zendesk() -> AsyncIterator[Zendesk]:
    async with Zendesk() as zendesk:
        yield zendesk


@pytest.fixture(scope="session")
def common_settings(database_url: str, redis_url: str) -> Settings:
    """Settings as `holdfast up` makes them, with short pauses; read once, since each reading takes 20 ms."""
    return Settings(
        database_url=SecretStr(database_url),
        redis_url=SecretStr(redis_url),
        api_token=SecretStr(API_TOKEN),
        download_hosts=("127.0.0.1",),
        download_private_networks=True,
        early_seconds=0,
        backfill_minutes=0,  # the tests of the back-fill alone make its calls
        database_seconds=30,  # a busy machine may keep Postgres from answering for seconds
        lease_seconds=10,  # a busy machine may keep a loop from renewing it for seconds
        sweep_seconds=0.1,
        retry_min_seconds=0.1,
        retry_max_seconds=0.5,
        shutdown_seconds=1,
        worker_name="worker.test",
    )


@pytest.fixture
def settings(no_rows: None, common_settings: Settings, zendesk: Zendesk, tmp_path: Path) -> Settings:
    """Settings with an empty database, and a Zendesk and a storage for this test alone."""
    return common_settings.model_copy(
        update={
            "storage_url": f"file://{tmp_path}/objects",
            "zendesk_url": zendesk.url,
            "zendesk_oauth_client_id": zendesk.client_id,
            "zendesk_oauth_client_secret": SecretStr(zendesk.client_secret),
            "zendesk_webhook_secrets": (SecretStr(zendesk.secret),),
        }
    )


@pytest.fixture
async def res(settings: Settings) -> AsyncIterator[Resources]:
    async with open_resources(settings) as res:
        await res.redis.flushall()
        yield res


class Client:
    """A client of the web process, for Zendesk's requests and an operator's."""

    def __init__(self, url: str, session: ClientSession, zendesk: Zendesk) -> None:
        self.url = url
        self.session = session
        self.zendesk = zendesk
        self.webhook = f"{self.url}/webhooks/zendesk"

    async def send(self, payload: dict[str, Any] | bytes, **more: Any) -> dict[str, Any]:
        answer = await self.zendesk.send(self.webhook, payload, **more)
        assert answer.status == 200, answer.body
        receipt: dict[str, Any] = answer.json()
        return receipt

    async def get(self, path: str, status: int = 200) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {API_TOKEN}"}
        async with self.session.get(f"{self.url}{path}", headers=headers) as response:
            assert response.status == status, await response.text()
            body: dict[str, Any] = await response.json(content_type=None)
            return body

    async def post(self, path: str, status: int = 202) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {API_TOKEN}"}
        async with self.session.post(f"{self.url}{path}", headers=headers) as response:
            assert response.status == status, await response.text()
            body: dict[str, Any] = await response.json(content_type=None)
            return body

    async def email(self, email_id: int) -> dict[str, Any]:
        return await self.get(f"/api/v1/emails/{email_id}")

    async def until(self, email_id: int, *statuses: str) -> dict[str, Any]:
        """Wait until an e-mail is in one of these states; return it."""

        async def reached() -> dict[str, Any] | None:
            email = await self.email(email_id)
            return email if email["processing_status"] in statuses else None

        return await eventually(reached)


class Server(Client):
    """The web process, with access to its resources."""

    def __init__(self, runner: web.AppRunner, session: ClientSession, zendesk: Zendesk) -> None:
        super().__init__(f"http://127.0.0.1:{runner.addresses[0][1]}", session, zendesk)
        self.app = runner.app
        self.res = runner.app[RES]
        self._runner = runner

    async def stop(self) -> None:
        """Stop as at SIGTERM, within the time that platforms allow."""
        async with asyncio.timeout(25):
            await self._runner.cleanup()


async def eventually(condition: Callable[[], Awaitable[T | None]], seconds: float = 60) -> T:
    """Wait for a condition to hold, and return its result; ask less often after some time, to leave others the processor."""
    pause = 0.02
    async with asyncio.timeout(seconds):
        while not (result := await condition()):
            await asyncio.sleep(pause)
            pause = min(1.05 * pause, 0.15)
        return result


@asynccontextmanager
async def serving(
    settings: Settings,
    zendesk: Zendesk,
    routes: Sequence[web.RouteDef] = (),
    kind: type[web.AppRunner] = Runner,
) -> AsyncIterator[Server]:
    """Run the web server as `serve` does; aiohttp's TestServer would cancel a handler whose client leaves."""
    app = create_app(settings)
    app.add_routes(routes)
    runner = kind(app, access_log=None, shutdown_timeout=2, auto_decompress=False)
    async with ClientSession() as session:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        client = Server(runner, session, zendesk)
        try:
            yield client
        finally:
            await client.stop()


@pytest.fixture
async def client(settings: Settings, zendesk: Zendesk, res: Resources) -> AsyncIterator[Server]:
    """Run the web server without a worker; Redis is empty."""
    async with serving(settings, zendesk) as client:
        yield client


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[Worker]:
    """Run arq's worker in this process, as its command does."""
    worker = create_worker(cast("Any", worker_settings(settings)), handle_signals=False)
    task = asyncio.create_task(worker.async_run())
    try:
        yield worker
    finally:
        task.cancel()
        await asyncio.wait({task})
        await worker.close()


@pytest.fixture
async def worker(settings: Settings, client: Client) -> AsyncIterator[Worker]:
    async with working(settings) as worker:
        yield worker


def environment(settings: Settings) -> dict[str, str]:
    """Return settings as environment variables."""
    variables = {}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        values = value if isinstance(value, tuple) else (value,)
        texts = [v.get_secret_value() if isinstance(v, SecretStr) else str(v) for v in values]
        variables[name.upper()] = ",".join(texts)
    return {**os.environ, **variables}


@asynccontextmanager
async def program(*command: str, settings: Settings, **more: str) -> AsyncIterator[Program]:
    """Run `python -m COMMAND` in a forked process; kill it after the block."""
    process = await asyncio.to_thread(Program, command, {**environment(settings), **more}, ROOT)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
