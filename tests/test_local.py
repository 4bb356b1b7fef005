"""The local servers, the stand-in Zendesk and the supervisor do what the other tests and the demo rely on."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest
import redis.asyncio as aioredis
from yarl import URL

from service.local import environment
from service.local.launch import ServerError
from service.local.samples import samples
from service.local.servers import postgres, valkey
from service.local.stack import free_port
from service.local.zendesk import Fault, Zendesk

ROOT = Path(__file__).resolve().parent.parent


def _wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def _processes(word: str) -> list[int]:
    """List the live processes whose command line holds `word`, this one excepted."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (process / "cmdline").read_bytes() and int(process.name) != os.getpid():
                found.append(int(process.name))
    return found


linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")


# ── servers


async def _execute(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url, password="any")  # without one it looks for a file, which blocks
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def test_postgres_keeps_its_data_between_runs_and_leaves_no_process(tmp_path: Path) -> None:
    with postgres(tmp_path) as url:
        asyncio.run(_execute(url, "CREATE TABLE kept AS SELECT 42 AS answer"))
    with postgres(tmp_path) as url:
        kept = asyncio.run(_execute(url, "SELECT answer FROM kept"))
        durable = asyncio.run(_execute(url, "SELECT current_setting('fsync')"))

    assert kept == 42
    assert durable == "on"
    assert _processes(str(tmp_path)) == []


def test_postgres_listens_on_a_private_unix_socket_only(tmp_path: Path) -> None:
    with postgres(tmp_path) as url:
        assert asyncio.run(_execute(url, "SELECT current_setting('listen_addresses')")) == ""

        assert url == f"postgresql://postgres@/postgres?host={tmp_path}"
        assert (tmp_path / ".s.PGSQL.5432").stat().st_mode & 0o077 == 0
        assert tmp_path.stat().st_mode & 0o077 == 0


def test_valkey_refuses_to_evict_and_listens_on_a_private_unix_socket_only(tmp_path: Path) -> None:
    async def ask(url: str) -> tuple[object, ...]:
        async with aioredis.Redis.from_url(url, decode_responses=True) as client:
            settings = await client.config_get("maxmemory-policy", "save", "appendonly", "port")
            return settings["maxmemory-policy"], settings["save"], settings["appendonly"], settings["port"]

    with valkey(tmp_path) as url:
        assert asyncio.run(ask(url)) == ("noeviction", "", "no", "0")

        assert (tmp_path / "valkey.sock").stat().st_mode & 0o077 == 0
    assert _processes(str(tmp_path)) == []


def test_paths_that_no_socket_or_url_can_hold_are_fine(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 100) / "with space & per%cent"

    with postgres(directory / "postgres") as url, valkey(directory / "valkey"):
        assert asyncio.run(_execute(url, "SELECT 1")) == 1


def test_a_directory_takes_one_holdfast_at_a_time(tmp_path: Path) -> None:
    with (
        valkey(tmp_path),
        pytest.raises(ServerError, match=rf"in use by another holdfast \(process {os.getpid()}\)"),
        valkey(tmp_path),
    ):
        pass


def _run_servers(directory: Path) -> subprocess.Popen[bytes]:
    code = """
import sys, time
from pathlib import Path
from service.local.servers import postgres, valkey
with postgres(Path(sys.argv[1]) / "pg"), valkey(Path(sys.argv[1]) / "vk"):
    print("up", flush=True)
    time.sleep(100)
"""
    command = [sys.executable, "-c", code, str(directory)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout
    with process.stdout as lines:
        assert lines.readline() == b"up\n"
    return process


@linux
def test_servers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    parent = _run_servers(tmp_path)
    parent.kill()
    parent.wait()

    _wait_for(lambda: not _processes(str(tmp_path)))


@linux
def test_servers_start_again_after_everything_was_killed(tmp_path: Path) -> None:
    parent = _run_servers(tmp_path)
    for pid in (parent.pid, *_processes(str(tmp_path))):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    parent.wait()

    with postgres(tmp_path / "pg") as url, valkey(tmp_path / "vk"):
        assert asyncio.run(_execute(url, "SELECT 1")) == 1


def test_a_stale_pid_file_that_names_a_stranger_is_no_obstacle(tmp_path: Path) -> None:
    with postgres(tmp_path):
        stale = (tmp_path / "data" / "postmaster.pid").read_text().splitlines()
    (tmp_path / "data" / "postmaster.pid").write_text("\n".join([str(os.getpid()), *stale[1:]]))

    with postgres(tmp_path) as url:
        assert asyncio.run(_execute(url, "SELECT 1")) == 1


# ── the stand-in Zendesk


@pytest.fixture
async def zendesk() -> AsyncIterator[Zendesk]:
    async with Zendesk(oauth_token="oauth") as zendesk:
        yield zendesk


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


AGENT = {"Authorization": aiohttp.encode_basic_auth("agent@acme.example/token", "stand-in-token")}


async def _download(
    http: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = AGENT
) -> tuple[int, bytes]:
    """Download as zendesk.md says: credentials to the account, none to the CDN, its address as it is."""
    async with http.get(url, headers=headers, allow_redirects=False) as response:
        if response.status != 302:
            return response.status, await response.read()
        location = URL(response.headers["Location"], encoded=True)
    async with http.get(location) as response:
        return response.status, await response.read()


async def test_an_attachment_needs_credentials_and_then_comes_from_the_cdn(
    zendesk: Zendesk, http: aiohttp.ClientSession
) -> None:
    url = zendesk.add_file("Rechnung 7/2026.pdf", b"%PDF-1.7 ...", content_type="application/pdf")
    async with http.get(url, headers=AGENT, allow_redirects=False) as response:
        location = URL(response.headers["Location"], encoded=True)
    async with http.get(location) as response:
        content = await response.read()

    assert content == b"%PDF-1.7 ..."
    assert response.content_type == "application/pdf"
    assert response.content_disposition
    assert response.content_disposition.filename == "Rechnung 7/2026.pdf"
    assert location.origin() == URL(zendesk.cdn_url) != URL(zendesk.url)
    assert (zendesk.file(url).requests, zendesk.file(url).downloads) == (1, 1)


async def test_an_oauth_token_opens_it_too(zendesk: Zendesk, http: aiohttp.ClientSession) -> None:
    url = zendesk.add_file("a.txt", b"a")
    headers = {"Authorization": "Bearer oauth"}
    async with http.get(url, headers=headers, allow_redirects=False) as response:
        assert response.status == 302


@pytest.mark.parametrize(
    "headers", [None, {"Authorization": aiohttp.encode_basic_auth("agent@acme.example/token", "wrong")}]
)
async def test_without_the_right_credentials_one_gets_a_sign_in_page_and_200(
    zendesk: Zendesk, http: aiohttp.ClientSession, headers: dict[str, str] | None
) -> None:
    status, content = await _download(http, zendesk.add_file("a.pdf", b"%PDF"), headers)

    assert status == 200
    assert b"<title>Sign in" in content


async def test_the_cdn_refuses_credentials_and_notes_them(
    zendesk: Zendesk, http: aiohttp.ClientSession
) -> None:
    url = zendesk.add_file("a.txt", b"a")
    async with http.get(url, headers=AGENT, allow_redirects=False) as response:
        location = URL(response.headers["Location"], encoded=True)
    async with http.get(location, headers=AGENT) as response:
        assert response.status == 403

    assert zendesk.desk.cdn_authorizations == [AGENT["Authorization"]]


async def test_a_cdn_address_that_was_escaped_anew_is_unknown(
    zendesk: Zendesk, http: aiohttp.ClientSession
) -> None:
    url = zendesk.add_file("a.txt", b"a")
    async with http.get(url, headers=AGENT) as response:  # aiohttp follows, and escapes
        assert response.status in {403, 404}


async def test_an_unknown_token_is_404(zendesk: Zendesk, http: aiohttp.ClientSession) -> None:
    assert (await _download(http, f"{zendesk.url}/attachments/token/gone/?name=a"))[0] == 404


async def test_scripted_faults_are_used_up_one_a_download(
    zendesk: Zendesk, http: aiohttp.ClientSession
) -> None:
    faults = [
        Fault(status=503, headers={"Retry-After": "1"}),
        Fault(status=404, at_cdn=True),
        Fault(sign_in=True),
        Fault(redacted=True),
    ]
    url = zendesk.add_file("a.txt", b"content", faults=faults)
    seen = [await _download(http, url) for _ in range(5)]

    assert [status for status, _ in seen] == [503, 404, 200, 200, 200]
    assert b"Sign in" in seen[2][1]
    assert [content for _, content in seen[3:]] == [b"", b"content"]
    assert (zendesk.file(url).requests, zendesk.file(url).downloads) == (5, 2)


async def test_a_body_can_break_off(zendesk: Zendesk, http: aiohttp.ClientSession) -> None:
    url = zendesk.add_file("a.bin", bytes(500_000), faults=[Fault(reset_after=200_000)])

    with pytest.raises((aiohttp.ClientPayloadError, ConnectionResetError)):
        await _download(http, url)
    assert await _download(http, url) == (200, bytes(500_000))


async def test_a_body_can_wait_for_a_test(zendesk: Zendesk, http: aiohttp.ClientSession) -> None:
    fault = Fault(pause_after=1000, chunked=True)
    url = zendesk.add_file("a.bin", bytes(2000), faults=[fault])
    download = asyncio.create_task(_download(http, url))
    await asyncio.wait_for(fault.paused.wait(), 10)
    finished_early = download.done()
    fault.resume.set()

    assert await download == (200, bytes(2000))
    assert not finished_early


async def test_a_body_can_be_slow(zendesk: Zendesk, http: aiohttp.ClientSession) -> None:
    url = zendesk.add_file("a.bin", bytes(1000), faults=[Fault(bytes_per_second=5000)])
    start = time.monotonic()

    assert await _download(http, url) == (200, bytes(1000))
    assert time.monotonic() - start > 0.15


async def test_the_comments_api_pages_and_leaves_inline_images_out(
    zendesk: Zendesk, http: aiohttp.ClientSession
) -> None:
    for number in range(3):
        pdf, png = zendesk.add_file(f"{number}.pdf", b"%PDF"), zendesk.add_file(f"{number}.png", b"PNG")
        zendesk.add_comment(7, attachments=[pdf], inline=[png])

    async def names(query: str) -> list[list[str]]:
        pages, url = [], f"{zendesk.url}/api/v2/tickets/7/comments.json?{query}"
        while url:
            async with http.get(URL(url, encoded=True), headers=AGENT) as response:
                page = await response.json()
            pages.append([a["file_name"] for c in page["comments"] for a in c["attachments"]])
            url = page["links"]["next"]
        return pages

    assert await names("page[size]=2") == [["0.pdf", "1.pdf"], ["2.pdf"]]
    assert await names("include_inline_images=true") == [
        ["0.pdf", "0.png", "1.pdf", "1.png", "2.pdf", "2.png"]
    ]


async def test_the_comments_api_needs_credentials(zendesk: Zendesk, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{zendesk.url}/api/v2/tickets/7/comments") as response:
        assert response.status == 401
        assert await response.json() == {"error": "Couldn't authenticate you"}


# ── the supervisor


_SUPERVISOR = """
import asyncio, os, sys
from pathlib import Path
from service.local.signals import run_until_told
from service.local.supervisor import Program, supervise

def program(name):
    return Program(name, [sys.executable, "-c", sys.argv[1], name, sys.argv[2]], os.environ, Path.cwd())

async def main(hurry):
    stages = [[program("web")], [program("worker.1"), program("worker.2")]]
    async with supervise(stages, lambda who, what: print(who, what, flush=True), hurry):
        await asyncio.Event().wait()

run_until_told(main)
"""

# Notes its start and its orderly end: "web 123" and "web ends".
_CHILD = """
import os, signal, sys, time
def note(what):
    with open(sys.argv[2], "a") as notes:
        notes.write(f"{sys.argv[1]} {what}\\n")
def end(*_):
    note("ends")
    sys.exit()
signal.signal(signal.SIGTERM, end)
note(os.getpid())
time.sleep(100)
"""


class _Supervised:
    """A supervisor in a process of its own, with children that take notes."""

    def __init__(self, directory: Path, child: str = _CHILD) -> None:
        self.notes = directory / "notes"
        self.notes.touch()
        command = [sys.executable, "-c", _SUPERVISOR, child, str(self.notes)]
        self.output = directory / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)

    def lines(self) -> list[str]:
        return self.notes.read_text().splitlines()

    def pid(self, name: str) -> int:
        """Return the process that runs as `name`, once all three do."""
        _wait_for(lambda: len({line.split()[0] for line in self.lines()}) == 3)
        return int([line.split()[1] for line in self.lines() if line.startswith(name)][-1])


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[_Supervised]:
    supervised = _Supervised(tmp_path)
    yield supervised
    supervised.process.kill()
    supervised.process.wait()


def test_a_child_that_dies_is_started_again(supervised: _Supervised) -> None:
    first = supervised.pid("worker.1")
    os.kill(first, signal.SIGKILL)

    _wait_for(lambda: supervised.pid("worker.1") != first)
    assert "worker.1 ended (SIGKILL), it starts again in 0.5 s" in supervised.output.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_workers_then_web_and_nothing_is_left(
    supervised: _Supervised, number: signal.Signals
) -> None:
    supervised.pid("web")
    supervised.process.send_signal(number)

    assert supervised.process.wait(20) == 0
    ends = [line for line in supervised.lines() if line.endswith("ends")]
    assert sorted(ends[:2]) == ["worker.1 ends", "worker.2 ends"]
    assert ends[2:] == ["web ends"]
    assert _processes(str(supervised.notes)) == []


def test_ctrl_c_reaches_the_supervisor_alone(supervised: _Supervised) -> None:
    assert os.getsid(supervised.pid("web")) == supervised.pid("web")


def test_a_second_ctrl_c_kills_what_does_not_end(tmp_path: Path) -> None:
    stubborn = _CHILD.replace("signal.SIGTERM, end", "signal.SIGTERM, signal.SIG_IGN")
    supervised = _Supervised(tmp_path, stubborn)
    supervised.pid("web")
    supervised.process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        supervised.process.wait(0.5)
    supervised.process.send_signal(signal.SIGINT)

    assert supervised.process.wait(10) == 0
    assert _processes(str(tmp_path)) == []


@linux
def test_the_children_of_a_killed_supervisor_end(supervised: _Supervised) -> None:
    supervised.pid("web")
    supervised.process.kill()

    _wait_for(lambda: not _processes(str(supervised.notes)))
    assert sum(line.endswith("ends") for line in supervised.lines()) == 3


def test_a_child_that_refuses_its_settings_is_not_tried_again(tmp_path: Path) -> None:
    supervised = _Supervised(tmp_path, "import sys; sys.exit(2)")

    assert supervised.process.wait(20) == 1
    assert "GivenUp" in supervised.output.read_text()
    assert _processes(str(tmp_path)) == []


# ── settings of a local Holdfast


def test_token_and_secret_are_made_once_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    first = environment.choose(tmp_path, {}, {}, 8000)
    environment.write(tmp_path / "env", first)

    assert environment.choose(tmp_path, {}, {}, 8000) == first
    assert (tmp_path / "env").stat().st_mode & 0o777 == 0o600


def test_the_users_settings_win_but_web_stays_on_loopback(tmp_path: Path) -> None:
    own = {
        "API_TOKEN": "mine",
        "STORAGE_URL": "s3://bucket",
        "HOST": "0.0.0.0",
        "PATH": "/bin",
        "REDIS_URL": "",
    }
    chosen = environment.choose(tmp_path, own, {"REDIS_URL": "unix:///here"}, 8123)

    assert chosen["API_TOKEN"] == "mine"
    assert chosen["STORAGE_URL"] == "s3://bucket"
    assert chosen["REDIS_URL"] == "unix:///here"
    assert (chosen["HOST"], chosen["PORT"]) == ("127.0.0.1", "8123")
    assert "PATH" not in chosen


def test_files_from_this_machine_are_taken_only_without_an_account(tmp_path: Path) -> None:
    alone = environment.choose(tmp_path, {}, {}, 8000)
    real = environment.choose(tmp_path, {"ZENDESK_SUBDOMAIN": "acme"}, {}, 8000)

    assert alone["DOWNLOAD_PRIVATE_NETWORKS"] == "true"
    assert not {"DOWNLOAD_PRIVATE_NETWORKS", "DOWNLOAD_HOSTS"} & real.keys()


def test_any_value_survives_the_file(tmp_path: Path) -> None:
    values = {"A": 'it\'s \\ "quoted" #not $HOME ${HOME}', "B": "", "C": "plain-_./:@%"}
    environment.write(tmp_path / "env", values)

    assert environment.read(tmp_path / "env") == values


# ── the commands


def test_samples_are_what_their_names_say() -> None:
    files = [file for sample in samples() for file in sample.files]
    beginnings = {"pdf": b"%PDF-1.7", "png": b"\x89PNG\r\n\x1a\n", "csv": b"number,"}

    assert len(samples()) == 20
    assert all(file.content.startswith(beginnings[file.name.rpartition(".")[2]]) for file in files)
    assert (
        min(len(file.content) for file in files)
        < 3_000
        < 2_000_000
        < max(len(file.content) for file in files)
    )


def _holdfast(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    variables = {name: value for name, value in os.environ.items() if name not in environment.names()}
    return subprocess.Popen(
        [sys.executable, "-m", "service", *arguments],
        cwd=cwd,
        env={**variables, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_up_takes_what_send_sends_and_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "payload.json").write_text('{"ticket_id": 7, "subject": "Hello"}')
    (tmp_path / "a file.txt").write_bytes(b"bytes" * 1000)
    up = _holdfast("up", "--port", str(free_port()), cwd=tmp_path)
    assert up.stdout
    with up.stdout as lines:
        assert any("Holdfast is ready" in line for line in lines)
        send = _holdfast("send", "payload.json", "--attach", "a file.txt", cwd=tmp_path)
        said, _ = send.communicate(timeout=60)
        up.send_signal(signal.SIGINT)
        rest = lines.read()

    assert send.returncode == 0, said
    assert "e-mail 1: completed, 1/1 files" in said
    assert up.wait(60) == 0, rest
    stored = [path.read_bytes() for path in (tmp_path / ".holdfast" / "objects").rglob("*") if path.is_file()]
    assert stored == [b"bytes" * 1000]
    assert _processes(str(tmp_path)) == []


def test_up_says_in_one_line_that_a_port_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = _holdfast("up", "--port", str(port), cwd=tmp_path)
        said, _ = up.communicate(timeout=30)

    assert said == f"holdfast: port {port} is taken on 127.0.0.1: choose another with --port\n"
    assert up.returncode == 2
