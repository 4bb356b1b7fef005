"""`holdfast emails`, `failures` and `retries`: lists, exports and bulk retries."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from service.config.settings import Settings
from service.operate import bulk_retry
from service.queries.emails import get_email
from service.resources import Resources
from service.storage.objects import put
from tests.conftest import ROOT, environment, eventually, working
from tests.support import forked
from tests.support.commands import command, read_all, terminal, typed
from tests.support.forked import Done
from tests.support.targets import SECRET, Receiver, receiver

REASON = "the address at 'files.example' is refused: the host is not among DOWNLOAD_HOSTS"
EVIL = "../../\x1b]0;x\x07\u202egpj.exe"


async def add(database: asyncpg.Connection, count: int = 1, **columns: Any) -> None:
    """Add e-mails, the oldest first."""
    values = {"processing_status": "failed", "error_code": "gone", "processing_error": REASON, **columns}
    places = ", ".join(f"${number + 2}" for number in range(len(values)))
    await database.execute(
        f"""
        INSERT INTO incoming_emails (zendesk_ticket_id, received_at, completed_at, {", ".join(values)})
        SELECT i::text, now() - ($1 - i) * interval '1 s', now() - interval '1 s', {places}
        FROM generate_series(1, $1) AS i
        """,
        count,
        *values.values(),
    )


async def store(res: Resources, database: asyncpg.Connection, content: bytes, name: str) -> None:
    """Give the first e-mail a stored file."""

    async def chunks() -> Any:
        yield content

    stored = await put(res.storage, chunks(), name)
    await database.execute(
        "INSERT INTO attachments (email_id, position, source_url, file_name, status, sha256, size, object_key)"
        " SELECT 1, count(*), 'https://x.example', $1, 'stored', $2, $3, $4 FROM attachments",
        name,
        stored.sha256,
        stored.size,
        stored.key,
    )


async def test_a_list_reads_pages_up_to_its_limit(settings: Settings, database: asyncpg.Connection) -> None:
    await add(database, 450)

    done = await command(settings, "emails", "list", "--limit", "430", "--json")

    page = json.loads(done.stdout)
    assert [email["id"] for email in page["emails"]] == list(range(450, 20, -1))
    assert page["next_cursor"]
    assert page["total"] == 450


async def test_words_of_a_list_need_no_option(settings: Settings, database: asyncpg.Connection) -> None:
    for subject in ("Signed contract V-4711", "Signed contract V-4712", "Invoice V-4711"):
        await add(database, subject=subject)

    done = await typed(settings, "emails", "list", "V-4711", "contract", "--json")
    both = await typed(settings, "emails", "list", "contract", "--text", "V-4711", "--json")

    assert [each["subject"] for each in json.loads(done.stdout)["emails"]] == ["Signed contract V-4711"]
    assert both.stdout == done.stdout


async def test_a_list_searches_further_back_than_one_query(
    settings: Settings, database: asyncpg.Connection
) -> None:
    await add(database, error_host="needle.example")
    await add(database, 12_000, error_host="hay.example")

    done = await typed(settings, "emails", "list", "--host", "needle.example")

    assert (done.returncode, done.stdout.partition("\t")[0]) == (0, "1")


async def test_a_narrow_terminal_shows_the_whole_reason_and_no_long_line(
    settings: Settings, database: asyncpg.Connection
) -> None:
    await add(database, subject="Invoice")

    narrow = await terminal(settings, "emails", "list")
    wide = await terminal(settings, "emails", "list", columns=200)

    assert (narrow[0], wide[0]) == (0, 0)
    assert max(map(len, narrow[1].splitlines())) <= 80
    assert {*REASON.split(), "failed"} <= set(narrow[1].split())
    assert "Invoice" not in narrow[1]
    assert "Invoice" in wide[1]


async def test_show_prints_the_history_in_order(settings: Settings, database: asyncpg.Connection) -> None:
    await add(database)
    await database.execute(
        "INSERT INTO attempts (email_id, number, worker, started_at, finished_at, outcome, error_code)"
        " VALUES (1, 1, 'worker.9', now(), now() + interval '1 s', 'failed', 'gone')"
    )
    await command(settings, "emails", "retry", "1", LOGNAME="ada\x1b[2J")

    done = await typed(settings, "emails", "show", "1")

    assert (done.returncode, done.stderr) == (0, "")
    happened = done.stdout.partition("History")[2]
    assert "\x1b" not in happened
    words = ("received", "attempt 1 begun by worker.9", "retry by ada\ufffd[2J@")
    assert [happened.index(word) for word in words] == sorted(happened.index(word) for word in words)
    assert "attempt 1 failed gone" in happened


async def test_raw_prints_the_original_bytes_except_on_a_terminal(
    settings: Settings, database: asyncpg.Connection
) -> None:
    body = b'\xef\xbb\xbf{"a": "\x1b[2J\xff\x9b"}\r\n'
    await add(database, raw_body=body, raw_headers="[]")

    words = [sys.executable, "-m", "service", "emails", "show", "1", "--raw"]
    done = await asyncio.to_thread(
        subprocess.run, words, cwd=ROOT, env=environment(settings), stdout=PIPE, check=True
    )
    code, screen = await terminal(settings, "emails", "show", "1", "--raw")

    assert done.stdout == body
    assert (code, "\x1b" in screen) == (0, False)
    assert "[2J" in screen


async def test_holding_lists_the_emails_with_a_file(
    settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    await add(database)
    await store(res, database, b"invoice", EVIL)
    sha256 = hashlib.sha256(b"invoice").hexdigest()

    done = await typed(settings, "emails", "holding", sha256.upper())
    as_json = await typed(settings, "emails", "holding", sha256, "--json")
    none = await typed(settings, "emails", "holding", "0" * 64)

    assert done.stdout.startswith("1\t0\t7\t../../\ufffd]0;x")
    assert json.loads(as_json.stdout)["holders"][0]["email_id"] == 1
    assert (none.returncode, none.stdout) == (1, "")


async def test_export_has_every_field_of_each_email(
    settings: Settings, res: Resources, database: asyncpg.Connection, tmp_path: Path
) -> None:
    await add(database, 230, subject="\x9b2J")
    await store(res, database, b"invoice", "invoice.pdf")
    await database.execute("INSERT INTO attempts (email_id, number, worker) VALUES (1, 1, 'w'), (2, 1, 'w')")
    await database.execute(
        "INSERT INTO operator_actions (actor, action, email_id) VALUES ('ada', 'retry', 1)"
    )

    done = await command(settings, "emails", "export")
    to_file = await command(
        settings, "emails", "export", "--ticket", "1", "--output", f"{tmp_path}/out/emails.jsonl"
    )

    emails = [json.loads(line) for line in done.stdout.splitlines()]
    assert [email["id"] for email in emails] == list(range(230, 0, -1))
    assert emails[-1] == (await get_email(res.engine, 1)).model_dump(mode="json")
    assert "\x9b" not in done.stdout
    assert (to_file.returncode, to_file.stdout) == (0, "")
    files = await asyncio.to_thread(read_all, tmp_path / "out")
    assert list(files) == ["emails.jsonl"]
    assert json.loads(files["emails.jsonl"]) == emails[-1]


async def test_exported_files_are_whole_and_safely_named_and_damage_is_reported(
    settings: Settings, res: Resources, database: asyncpg.Connection, tmp_path: Path
) -> None:
    await add(database)
    long = "é" * 300 + ".pdf"
    for content, name in ((b"one", EVIL), (b"two", long), (b"three", ".."), (b"four", "bad.txt")):
        await store(res, database, content, name)
    key = await database.fetchval("SELECT object_key FROM attachments WHERE position = 3")
    await asyncio.to_thread((tmp_path / "objects" / key).write_bytes, b"wolf")

    done = await command(settings, "emails", "export", "--files", f"{tmp_path}/out")

    files = await asyncio.to_thread(read_all, tmp_path / "out")
    assert done.returncode == 1
    assert "E-mail 1, file 3: the object" in done.stderr
    assert done.stderr.endswith("1 files could not be written.\n")
    assert {name[:4]: content for name, content in files.items()} == {
        "1/0-": b"one",
        "1/1-": b"two",
        "1/2-": b"three",
    }
    assert all(name.count("/") == 1 and name.isprintable() for name in files)
    assert any(name.endswith("é.pdf") for name in files)


async def exported(
    settings: Settings, res: Resources, database: asyncpg.Connection, out: Path
) -> tuple[Done, Path]:
    """Export an e-mail with a file and one without; return the result, and a directory that must stay unchanged."""
    await add(database, 2)
    await store(res, database, b"one", "a.txt")
    done = await command(settings, "emails", "export", "--files", str(out))
    return done, out.parent / "elsewhere"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Make a directory to export to, and another one beside it."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_bytes(b"kept")
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


async def test_export_does_not_follow_a_link_named_like_an_email(
    settings: Settings, res: Resources, database: asyncpg.Connection, out: Path
) -> None:
    await asyncio.to_thread((out / "1").symlink_to, out.parent / "elsewhere")

    done, elsewhere = await exported(settings, res, database, out)

    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2, "all e-mails are exported nevertheless"
    assert "E-mail 1, file 0: 1 exists and is no directory: remove it\n" in done.stderr
    assert await asyncio.to_thread(read_all, elsewhere) == {"kept": b"kept"}


async def test_export_replaces_a_link_named_like_a_file(
    settings: Settings, res: Resources, database: asyncpg.Connection, out: Path
) -> None:
    def plant() -> None:
        (out / "1").mkdir()
        (out / "1" / "0-a.txt").symlink_to(out.parent / "elsewhere" / "kept")

    await asyncio.to_thread(plant)

    done, elsewhere = await exported(settings, res, database, out)

    assert done.returncode == 0, done.stderr
    assert await asyncio.to_thread(read_all, elsewhere) == {"kept": b"kept"}
    assert not await asyncio.to_thread((out / "1" / "0-a.txt").is_symlink)
    assert await asyncio.to_thread((out / "1" / "0-a.txt").read_bytes) == b"one"


async def test_export_reports_and_keeps_a_directory_named_like_a_file(
    settings: Settings, res: Resources, database: asyncpg.Connection, out: Path
) -> None:
    await asyncio.to_thread(lambda: (out / "1" / "0-a.txt").mkdir(parents=True))

    done, _ = await exported(settings, res, database, out)

    assert done.returncode == 1
    assert "E-mail 1, file 0: 0-a.txt exists and is a directory: remove it\n" in done.stderr
    assert await asyncio.to_thread(lambda: [path.name for path in (out / "1").iterdir()]) == ["0-a.txt"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
async def test_export_refuses_another_users_directory_named_like_an_email(
    settings: Settings, res: Resources, database: asyncpg.Connection, out: Path
) -> None:
    def plant() -> None:
        (out / "1").mkdir()
        os.chown(out / "1", 12_345, -1)

    await asyncio.to_thread(plant)

    done, _ = await exported(settings, res, database, out)

    assert done.returncode == 1
    assert "the directory 1 belongs to another user" in done.stderr
    assert await asyncio.to_thread(read_all, out) == {}


async def test_export_follows_a_link_that_the_user_named(
    settings: Settings, res: Resources, database: asyncpg.Connection, out: Path
) -> None:
    """The user's own link is safe, and often leads to a directory on another disk."""
    await asyncio.to_thread((out.parent / "link").symlink_to, out)

    done, _ = await exported(settings, res, database, out.parent / "link")

    assert done.returncode == 0, done.stderr
    assert await asyncio.to_thread(read_all, out) == {"1/0-a.txt": b"one"}


async def test_a_second_export_replaces_files(
    settings: Settings, res: Resources, database: asyncpg.Connection, out: Path
) -> None:
    await exported(settings, res, database, out)
    await asyncio.to_thread((out / "1" / "0-a.txt").write_bytes, b"old")

    done = await command(settings, "emails", "export", "--files", str(out))

    assert done.returncode == 0, done.stderr
    assert await asyncio.to_thread(read_all, out) == {"1/0-a.txt": b"one"}


async def test_an_unwritable_directory_is_one_line(
    settings: Settings, database: asyncpg.Connection, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()

    done = await command(settings, "emails", "export", "--output", f"{tmp_path}/file/x")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: cannot write ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", ["emails list --limit 3000", "emails export", "failures --json"])
async def test_a_closed_pipe_ends_a_command_quietly(
    settings: Settings, database: asyncpg.Connection, words: str
) -> None:
    await add(database, 3000)

    done = await asyncio.to_thread(
        subprocess.run,
        f"{sys.executable} -m service {words} | head -c 1",
        shell=True,
        cwd=ROOT,
        env=environment(settings),
        capture_output=True,
        check=True,
    )

    assert (len(done.stdout), done.stderr) == (1, b"")


async def test_a_bulk_retry_is_planned_started_shown_and_cancelled(
    settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    await add(database, 3)
    await add(database, error_code="other")

    plan = await typed(settings, "emails", "retry", "--all", "--error-code", "gone", "--dry-run", "--json")
    begun = await typed(settings, "failures", "retry", "gone", "--yes", "--json", LOGNAME="ada")
    listed = await typed(settings, "retries", "list")
    shown = await typed(settings, "retries", "show", "1")
    cancelled = await typed(settings, "retries", "cancel", "1", "--json", LOGNAME="bob")
    again = await typed(settings, "retries", "cancel", "1")
    activity = await typed(settings, "activity", "--json")

    assert json.loads(plan.stdout) == {"matching": 3, "capped": False}
    assert json.loads(begun.stdout)["planned"] == 3
    assert json.loads(begun.stdout)["filter"]["error_code"] == "gone"
    assert listed.stdout.split("\t")[2:5] == ["running", "0", "3"]
    assert shown.stdout.startswith("Bulk retry 1 is running with 0 of 3 queued\n")
    assert json.loads(cancelled.stdout)["status"] == "cancelled"
    assert (again.returncode, again.stderr) == (1, "Bulk retry 1 is cancelled already.\n")
    actors = [action["actor"].partition("@")[0] for action in json.loads(activity.stdout)["actions"]]
    assert actors == ["bob", "ada"]
    assert not await bulk_retry.step(res), "no step is left"


async def test_a_bulk_retry_asks_on_a_terminal_and_needs_a_yes(
    settings: Settings, database: asyncpg.Connection
) -> None:
    await add(database, 2)

    code, screen = await terminal(settings, "emails", "retry", "--all", keys=b"n\n")

    assert code == 1
    assert "2 match" in screen
    assert await database.fetchval("SELECT count(*) FROM bulk_retries") == 0


async def test_waiting_ends_with_the_bulk_retry_and_ctrl_c_leaves_it_running(
    settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    await add(database, 3, attachment_urls="[]")
    words = ("-m", "service", "emails", "retry", "--all", "--yes", "--wait")

    async def begin() -> asyncio.subprocess.Process:
        process: asyncio.subprocess.Process = await forked.create_subprocess_exec(
            sys.executable, *words, cwd=ROOT, env=environment(settings), stdout=PIPE, stderr=PIPE
        )
        return process

    async def has_begun() -> bool:
        rows = await database.fetchval("SELECT count(*) FROM bulk_retries WHERE status = 'running'")
        return bool(rows)

    left = await begin()
    await eventually(has_begun)
    await asyncio.sleep(1)  # until the command waits; an earlier signal ends it with another code
    left.send_signal(signal.SIGINT)
    _, said = await left.communicate()
    async with working(settings):
        again = await command(settings, "retries", "wait", "1")
    await database.execute(
        "UPDATE incoming_emails SET processing_status = 'failed', completed_at = now() - interval '1 s'"
    )
    async with working(settings):
        stayed = await begin()
        out, _ = await stayed.communicate()

    assert left.returncode == 130
    assert said.decode().splitlines()[-2:] == [
        "`holdfast retries wait 1` waits again.",
        "The bulk retry goes on; `holdfast retries cancel 1` cancels it.",
    ]
    ends = "is done with 3 of 3 queued\n3 repaired, 0 failed again, 0 still running.\n"
    assert (again.returncode, again.stdout) == (0, f"Bulk retry 1 {ends}")
    assert (stayed.returncode, out.decode().splitlines(keepends=True)[-2:]) == (
        0,
        f"Bulk retry 2 {ends}".splitlines(keepends=True),
    )


async def test_failures_are_listed_in_groups(settings: Settings, database: asyncpg.Connection) -> None:
    await add(database, 2, error_host="files.example")
    await add(database, error_code=None, processing_error="\x1b[2J")

    done = await typed(settings, "failures")
    as_json = await typed(settings, "failures", "--json")

    rows = {tuple(line.split("\t")[:3]) for line in done.stdout.splitlines()}
    assert rows == {("2", "gone", "files.example"), ("1", "none", "none")}
    assert "\x1b" not in done.stdout
    assert len(json.loads(as_json.stdout)["failures"]) == 2


@pytest.fixture
async def target() -> AsyncIterator[Receiver]:
    async with receiver() as kept:
        yield kept


async def test_failed_syncs_are_listed_shown_and_retried(
    settings: Settings, database: asyncpg.Connection, target: Receiver
) -> None:
    syncing = settings.model_copy(
        update={"sync_url": (SecretStr(target.url),), "sync_webhook_secret": (SecretStr(SECRET),)}
    )
    refused = {"error_code": None, "sync_status": "failed", "sync_error_code": "document_refused"}
    await add(database, 3, **refused)
    await add(database, sync_status="synced")
    await add(database, processing_status="queued", sync_status="pending")

    listed = await typed(syncing, "emails", "list", "--sync-status", "failed")
    shown = await typed(syncing, "emails", "show", "1")
    some = await typed(syncing, "emails", "sync", "1", "5", "9")
    plan = await typed(syncing, "emails", "sync", "--all", "--dry-run", "--json")
    begun = await typed(syncing, "emails", "sync", "--all", "--yes", "--json", LOGNAME="ada")
    status = await typed(syncing, "status")
    as_json = await typed(syncing, "status", "--json")
    retries = await typed(syncing, "retries", "show", "1")

    assert listed.stderr == ""
    assert [line.split("\t")[0] for line in listed.stdout.splitlines()] == ["3", "2", "1"]
    assert [line.split("\t")[7] for line in listed.stdout.splitlines()] == ["failed"] * 3
    assert "\nThe sync is failed\n" in shown.stdout
    assert "document_refused" in shown.stdout
    assert (some.returncode, some.stdout) == (1, "1 to be synced\n")
    assert some.stderr == "E-mail 5 is queued: it is synced when its job ends.\nThere is no e-mail 9.\n"
    assert json.loads(plan.stdout) == {"matching": 2, "capped": False}
    assert (json.loads(begun.stdout)["what"], json.loads(begun.stdout)["planned"]) == ("sync", 2)
    assert "2 could not be synced." in status.stdout
    assert {"sync pending\t1", "sync failed\t2"} <= set(status.stdout.splitlines())
    assert json.loads(as_json.stdout)["by_sync_status"] == {"pending": 1, "failed": 2}
    assert retries.stdout.startswith("Bulk retry of syncs 1 is running with 0 of 2 queued\n")


async def test_without_a_target_nothing_is_synced_and_no_sync_is_shown(
    settings: Settings, database: asyncpg.Connection
) -> None:
    await add(database)

    one = await typed(settings, "emails", "sync", "1")
    shown = await typed(settings, "emails", "show", "1")
    status = await typed(settings, "status")

    assert (one.returncode, one.stderr) == (1, "SYNC_URL is not set: there is no target to sync to.\n")
    assert "sync" not in shown.stdout + status.stdout
