"""Processes that die at fault points, because of one e-mail, or because they hang."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from aiohttp import ServerDisconnectedError

from service import faultpoints
from service.config.settings import Settings
from service.jobs.attempts import MOST_ABANDONED
from service.local.supervisor import Child, Program, supervise
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from tests.conftest import ROOT, Client, environment, program
from tests.support import forked
from tests.support.connections import listens
from tests.support.files import PDF, stored_files

pytestmark = pytest.mark.long


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Use a short lease, so that another worker soon gets the job of a dead one."""
    return settings.model_copy(update={"lease_seconds": 2})


@pytest.fixture
def points(tmp_path: Path) -> Path:
    directory = tmp_path / "points"
    directory.mkdir()
    return directory


async def arm(points: Path, point: str, how: str) -> Path:
    path = points / point
    await asyncio.to_thread(path.write_text, how)
    return path


@asynccontextmanager
async def workers(settings: Settings, points: Path, number: int) -> AsyncIterator[Mapping[str, Child]]:
    """Run worker processes and restart them whenever they die, as a platform does."""
    programs = [
        Program(
            f"worker.{n}",
            [sys.executable, "-m", "service", "worker"],
            {**environment(settings), "WORKER_NAME": f"worker.{n}", "FAULT_POINTS": str(points)},
            ROOT,
        )
        for n in range(number)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "create_subprocess_exec", forked.create_subprocess_exec)
        async with supervise([programs], lambda _who, _what: None, asyncio.Event(), 0.5) as children:
            yield children


@pytest.mark.parametrize("point", ["after_claim", "mid_download", "after_object"])
async def test_a_worker_killed_at_any_fault_point_costs_only_time(
    point: str, client: Client, zendesk: Zendesk, settings: Settings, points: Path
) -> None:
    armed = await arm(points, point, "kill")
    email_id = (await client.send(zendesk.payload(attachments=[zendesk.add_file("a.pdf", PDF)])))["email_id"]
    async with workers(settings, points, 1):
        email = await client.until(email_id, "completed", "failed")

    assert not await asyncio.to_thread(armed.exists)
    assert (email["processing_status"], email["retry_count"]) == ("completed", 0)
    assert [attempt["outcome"] for attempt in email["attempts"]] == ["abandoned", "completed"]
    assert len(await stored_files(settings)) == 1


@pytest.mark.parametrize("how", ["kill", "hang"])
async def test_an_email_that_kills_every_worker_fails_and_the_others_complete(
    how: str, client: Client, zendesk: Zendesk, settings: Settings, points: Path, database: asyncpg.Connection
) -> None:
    """The budget has no retry: jobs claimed beside it need none."""
    settings = settings.model_copy(update={"max_retries": 0})
    await arm(points, "after_claim@13", how)
    slow = zendesk.add_file("a.pdf", PDF)
    poison = (await client.send(zendesk.payload(ticket_id=13)))["email_id"]
    neighbours = [(await client.send(zendesk.payload(attachments=[slow])))["email_id"] for _ in range(40)]
    async with workers(settings, points, 2):
        for _ in range(15):
            neighbours.append((await client.send(zendesk.payload(attachments=[slow])))["email_id"])
            await asyncio.sleep(0.1)
        ends = [await client.until(email_id, "completed", "failed") for email_id in neighbours]
        end = await client.until(poison, "completed", "failed")

    assert {email["processing_status"] for email in ends} == {"completed"}
    assert {(email["retry_count"], email["abandoned_count"]) for email in ends} == {(0, 0)}
    assert any("abandoned" in {attempt["outcome"] for attempt in email["attempts"]} for email in ends)
    assert (end["processing_status"], end["error_code"]) == ("failed", "abandoned")
    assert [attempt["outcome"] for attempt in end["attempts"]] == ["abandoned"] * MOST_ABANDONED
    assert end["retry_count"] == 0


async def test_a_process_with_a_blocked_event_loop_ends_and_logs_the_place(
    client: Client, zendesk: Zendesk, settings: Settings, points: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    await arm(points, "after_claim", "hang")
    await client.send(zendesk.payload())
    async with program("service", "worker", settings=settings, FAULT_POINTS=str(points)) as worker:
        code = await asyncio.wait_for(worker.wait(), 60)

    assert code == 1
    said = (await asyncio.to_thread(capfd.readouterr)).err
    assert "Timeout" in said
    assert "faultpoints.py" in said


async def test_a_web_process_killed_before_its_response_has_recorded_the_email(
    settings: Settings, zendesk: Zendesk, res: Resources, database: asyncpg.Connection, points: Path
) -> None:
    """Zendesk got no response and sends the webhook again: that is a duplicate."""
    await arm(points, "after_commit", "kill")
    port = await free_port()
    payload = zendesk.payload()
    variables = {"PORT": str(port), "HOST": "127.0.0.1", "FAULT_POINTS": str(points)}
    async with program("service", "web", settings=settings, **variables) as web:
        await listens(port)
        with pytest.raises(ServerDisconnectedError):
            await zendesk.send(f"http://127.0.0.1:{port}/webhooks/zendesk", payload)
        await web.wait()
    async with program("service", "web", settings=settings, **variables):
        await listens(port)
        again = await zendesk.send(f"http://127.0.0.1:{port}/webhooks/zendesk", payload)

    assert again.json() == {"status": "duplicate", "email_id": 1}
    assert await database.fetchval("SELECT count(*) FROM incoming_emails") == 1


def test_without_the_setting_a_fault_point_does_nothing(tmp_path: Path) -> None:
    faultpoints.reach(None, "after_claim", "13")


def test_a_ticket_id_names_no_file_in_another_directory(points: Path) -> None:
    (points.parent / "secret").write_text("kill")

    faultpoints.reach(points, "after_claim", "/../../secret")


async def free_port() -> int:
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = int(server.sockets[0].getsockname()[1])
    server.close()
    await server.wait_closed()
    return port
