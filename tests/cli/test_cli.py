"""The command line: output and exit codes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from service.cli.main import main
from service.config.settings import Settings
from tests.conftest import EMPTY
from tests.support import forked
from tests.support.databases import sql

Run = Callable[..., subprocess.CompletedProcess[str]]
OPERATE = ("status", "check", "emails", "failures", "retries", "quarantine", "storage", "activity", "tail")
COMMANDS = (
    *OPERATE,
    "web",
    "worker",
    "migrate",
    "connect",
    "merge",
    "up",
    "demo",
    "send",
    "drill",
    "completion",
)

HEAVY = {"sqlalchemy", "asyncpg", "aiohttp", "arq", "redis", "obstore", "structlog", "rich", "alembic"}


@pytest.fixture
def environment(database_url: str, redis_url: str, tmp_path: Path) -> dict[str, str]:
    """Make an environment with the servers of the tests and an empty database."""
    sql(database_url, EMPTY)
    others = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    return {
        **others,
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "STORAGE_URL": f"file://{tmp_path}/objects",
        "COLUMNS": "200",
    }


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    """Run the command in a directory without the files of `holdfast up`."""

    def run(*words: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
        changed = {**environment, **changes}
        variables = {name: value for name, value in changed.items() if value is not None}
        return forked.run(["service", *words], variables, tmp_path)

    return run


def add(url: str, status: str = "received", subject: str = "Invoice", error: str | None = None) -> None:
    sql(
        url,
        "INSERT INTO incoming_emails (zendesk_ticket_id, from_email, subject, processing_status,"
        " processing_error) VALUES ('4711', 'mara@customer.example', $1, $2, $3)",
        subject,
        status,
        error,
    )


def rows(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    return [line.split("\t") for line in done.stdout.splitlines()]


def loads(environment: dict[str, str], *words: str, **changes: str) -> tuple[int, str, set[str]]:
    """Run a command in a new Python; return its exit code, output and loaded modules."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "service", *words],
        env={**environment, **changes},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    return done.returncode, done.stdout, modules


def test_help_names_every_command_and_loads_no_heavy_library(environment: dict[str, str]) -> None:
    code, output, loaded = loads(environment, "--help", DATABASE_URL="")

    assert code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in output
    assert "service.cli.main" in loaded
    assert not loaded & {*HEAVY, "pydantic", "asyncio", "dotenv"}


def test_status_loads_neither_queue_nor_storage_nor_http(environment: dict[str, str]) -> None:
    code, _, loaded = loads(environment, "status", REDIS_URL="", STORAGE_URL="")

    assert code == 0
    assert "sqlalchemy" in loaded
    assert not loaded & (HEAVY - {"sqlalchemy", "asyncpg", "rich"})


@pytest.mark.parametrize("words", [(command, "--help") for command in COMMANDS] + [("-h",), ("emails", "-h")])
def test_every_command_has_a_help_text(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, words)

    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ")


def test_status_tells_by_text_and_exit_code_whether_all_is_safe(run: Run, database_url: str) -> None:
    nothing = run("status")
    add(database_url, "failed")
    attention = run("status")
    sql(
        database_url,
        "INSERT INTO incoming_emails (zendesk_ticket_id, received_at) VALUES ('1', now() - interval '2 h')",
    )
    late = run("status", "--json")
    away = run("status", DATABASE_URL="postgres://user:hunter2@127.0.0.1:1/name")

    assert (nothing.returncode, attention.returncode, late.returncode, away.returncode) == (0, 3, 4, 1)
    assert nothing.stdout.startswith(
        "No e-mail came in the last 24 hours. None needs attention. Nothing waiting.\n"
    )
    assert attention.stdout.startswith("The one e-mail of the last 24 hours failed. 1 needs attention.")
    assert ["failed", "1"] in rows(attention)
    assert json.loads(late.stdout)["by_status"]["received"] == 1
    assert json.loads(late.stdout)["verdict"] == (
        "All 2 e-mails of the last 24 hours are failed or late. 1 needs attention. Oldest waiting: 2 h."
    )


def test_status_watch_repeats_until_ctrl_c(environment: dict[str, str], tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    with os.fdopen(ours) as output, os.fdopen(theirs, "w") as their_output:
        words = ["service", "status", "--watch", "--json"]
        process = forked.start(words, environment, tmp_path, [0, their_output.fileno(), 2])
        states = [json.loads(output.readline())["state"] for _ in range(2)]
        assert process.pid
        os.kill(process.pid, signal.SIGINT)
        process.join()

    assert (states, process.exitcode) == (["safe", "safe"], 0)


def test_emails_list_is_newest_first_and_takes_filters(run: Run, database_url: str) -> None:
    add(database_url, "completed")
    add(database_url, "failed", error="The file is gone.")

    everything = run("emails", "list")
    failed = run("emails", "list", "--status", "failed", "--ticket", "4711", "--limit", "1")

    assert (everything.returncode, everything.stderr) == (0, "")
    first, second = rows(everything)
    assert first[:6] == ["2", "4711", "mara@customer.example", "Invoice", "failed", "0"]
    assert first[7:9] == ["", "The file is gone."], "this e-mail has no sync"
    assert (second[0], second[4]) == ("1", "completed")
    assert rows(failed) == [first]


def test_text_of_senders_neither_formats_nor_controls_the_terminal(run: Run, database_url: str) -> None:
    add(database_url, subject="[bold red]Hi[/] [link=https://evil.example]x[/link] \\[/] :smile:")
    add(database_url, subject="\x1b]0;owned\x07\x1b[2J\x9b31m\r\n\x08\x7f\u202eexe.pdf\u2028")

    done = run("emails", "list", FORCE_COLOR="1", TERM="xterm-256color")
    page = run("emails", "show", "2", FORCE_COLOR="1", TERM="xterm-256color")
    shown = run("emails", "show", "2", "--json")

    assert done.returncode == 0
    assert "[bold red]Hi[/] [link=https://evil.example]x[/link] \\[/] :smile:" in done.stdout
    assert "\ufffd]0;owned\ufffd\ufffd[2J\ufffd31m\ufffd\ufffd\ufffd\ufffd\ufffdexe.pdf\ufffd" in done.stdout
    for text in (done.stdout, page.stdout, shown.stdout):
        assert not {"\x1b]", "\x1b[2J", "\x07", "\x9b", "\r", "\x08", "\u202e"} & {
            *text,
            *(text[place : place + 2] for place in range(len(text))),
        }
        assert "\x1b[2J" not in text
    assert json.loads(shown.stdout)["subject"].endswith("\u202eexe.pdf\u2028")


def test_show_prints_json_of_an_email(run: Run, database_url: str) -> None:
    add(database_url, "failed", error="The file is gone.")

    done = run("emails", "show", "1", "--json")

    email = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert (email["id"], email["processing_error"]) == (1, "The file is gone.")
    assert {"attachments", "attempts", "queue_seconds", "attachment_urls"} <= set(email)


def test_retry_queues_finished_emails_and_names_the_others(run: Run, database_url: str) -> None:
    for status in ("failed", "processing", "completed"):
        add(database_url, status)

    some = run("emails", "retry", "1", "2", "3", "4")
    again = run("emails", "retry", "1")

    assert some.stdout == "1 queued\n3 queued\n"
    assert (
        some.stderr
        == "E-mail 2 is processing: only finished e-mails can be retried.\nThere is no e-mail 4.\n"
    )
    assert some.returncode == 1
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == "E-mail 1 is queued: only finished e-mails can be retried.\n"
    states = sql(database_url, "SELECT processing_status FROM incoming_emails ORDER BY id")
    assert states == [("queued",), ("processing",), ("queued",)]


def test_retry_succeeds_without_redis_because_a_sweep_enqueues_later(run: Run, database_url: str) -> None:
    add(database_url, "failed")

    done = run("emails", "retry", "1", REDIS_URL="redis://127.0.0.1:1")

    assert (done.returncode, done.stdout) == (0, "1 queued\n")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("show", "7"), ("retry", "7"), ("show", str(2**63 - 1))])
def test_an_unknown_email_is_one_line(run: Run, words: tuple[str, ...]) -> None:
    done = run("emails", *words)

    assert (done.returncode, done.stdout) == (1, "")
    listing = "" if words[0] == "retry" else " `holdfast emails list` lists the newest."
    assert done.stderr == f"There is no e-mail {words[1]}.{listing}\n"


@pytest.mark.parametrize(
    "words",
    [
        ("emails", "show", "seven"),
        ("emails", "show", "9" * 30),
        ("emails", "retry"),
        ("emails", "retry", "1", "--all"),
        ("emails", "retry", "1", "--ticket", "7"),
        ("emails", "retry", "--all"),  # without a terminal
        ("emails", "retry", "--all", "--dry-run", "--per-second", "0"),
        ("emails", "list", "--received-after", "soon"),
        ("emails", "export", "--text", "\0"),
        ("failures", "retry", "gone"),
        ("completion", "tcsh"),
        ("emails", "list", "--status", "done"),
        ("emails", "list", "--limit", "0"),
        ("nonsense",),
    ],
)
def test_a_wrong_option_is_a_usage_error(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, words)

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: ")


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("failures",),
        ("activity",),
        ("retries", "list"),
        ("emails", "list"),
        ("emails", "show", "1"),
        ("emails", "retry", "1"),
        ("emails", "retry", "--all", "--dry-run"),
        ("emails", "export"),
    ],
)
def test_without_postgres_every_command_ends_with_one_line_of_advice(
    run: Run, words: tuple[str, ...]
) -> None:
    done = run(*words, DATABASE_URL="postgres://user:hunter2@127.0.0.1:1/name")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "Postgres cannot be reached: ConnectionRefusedError."
        " Check DATABASE_URL, and that Postgres runs; `holdfast check` tells more.\n"
    )


def test_the_env_file_of_a_running_holdfast_replaces_an_empty_environment(
    run: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "env").write_text(
        "".join(f"{name}='{environment[name]}'\n" for name in ("DATABASE_URL", "REDIS_URL", "STORAGE_URL"))
    )
    none = dict.fromkeys(("DATABASE_URL", "REDIS_URL", "STORAGE_URL"))

    unset = run("status", "--env-file", str(tmp_path / "env"), **none)
    empty = run("status", "--env-file", str(tmp_path / "env"), **dict.fromkeys(none, ""))
    without = run("status", **none)

    assert (unset.returncode, unset.stderr) == (0, "")
    assert (empty.returncode, empty.stderr) == (0, "")
    assert without.returncode == 2
    assert without.stderr.startswith("DATABASE_URL is not set")


def test_without_settings_the_file_of_the_demo_is_named(run: Run, tmp_path: Path) -> None:
    none: dict[str, str | None] = dict.fromkeys(("DATABASE_URL", "REDIS_URL", "STORAGE_URL"))
    none["XDG_CONFIG_HOME"] = str(tmp_path)
    (tmp_path / ".holdfast/demo").mkdir(parents=True)
    (tmp_path / ".holdfast/demo/env").touch()

    beside, anywhere = run("holds", "list", **none), run("emails", **none)
    missing = run("emails", "list", "--env-file", "envv", **none)

    file = "--env-file .holdfast/demo/env"
    assert [done.returncode for done in (beside, anywhere, missing)] == [2, 2, 2]
    assert beside.stderr.startswith("DATABASE_URL is not set")
    assert re.search(rf"For the demo of this folder, run `.* holds list {file}`\.\n", beside.stderr)
    assert re.search(rf"For the demo of this folder, run `.* emails list {file}`\.\n", anywhere.stderr)
    assert missing.stderr.endswith("There is no file envv.\n")


def test_a_refused_replay_names_the_next_step(run: Run, database_url: str) -> None:
    sql(
        database_url,
        "INSERT INTO quarantined_webhooks (idempotency_key, raw_body, raw_headers, error_code, error)"
        " SELECT n, '{', '[]', 'not_json', 'x' FROM generate_series(1, 2) n",
    )

    one, both = run("quarantine", "replay", "2"), run("quarantine", "replay", "--all")
    none = run("quarantine", "replay", "9")

    assert "`holdfast quarantine edit 2` corrects one" in one.stderr
    assert both.stderr.count("`holdfast quarantine edit ID` corrects one") == 1
    assert "There is no quarantined webhook 9. `holdfast quarantine list` lists the newest." in none.stderr
    assert "edit" not in none.stderr


@pytest.mark.parametrize("number", ["1", "2"])
def test_a_port_in_use_is_one_line(run: Run, number: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        variables = {"PORT": str(port), "HOST": "127.0.0.1", "WEB_CONCURRENCY": number}
        done = run("web", ZENDESK_WEBHOOK_SECRETS="secret-of-this-test", **variables)

    assert done.returncode == 1
    assert re.fullmatch(
        rf"cannot listen on 127\.0\.0\.1:{port}: .*already in use\. Set PORT or HOST, or end the other program\.\n",
        done.stderr,
    )


def test_web_loads_no_module_of_worker_or_tools(environment: dict[str, str]) -> None:
    """The wrong storage address is found after all modules are loaded."""
    wrong = {"STORAGE_URL": "az://container", "PORT": "0", "ZENDESK_WEBHOOK_SECRETS": "secret-of-this-test"}
    code, _, loaded = loads(environment, "web", **wrong)

    assert code == 2
    assert {"aiohttp.web", "service.web.app"} <= loaded
    needless = {
        "service.worker.settings",
        "service.capture.attempt",
        "service.local",
        "alembic",
        "psutil",
        "botocore",
    }
    assert not loaded & needless


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(run: Run, shell: str) -> None:
    script = run("completion", shell)
    answer = subprocess.run(
        [str(Path(sys.executable).parent / "holdfast")],
        env={
            **os.environ,
            "_HOLDFAST_COMPLETE": "bash_complete",
            "COMP_WORDS": "holdfast emails re",
            "COMP_CWORD": "2",
        },
        capture_output=True,
        text=True,
        check=True,
    )

    assert script.returncode == 0
    assert "_HOLDFAST_COMPLETE" in script.stdout
    assert answer.stdout == "plain,reparse\nplain,retry\n"
