"""The commands `up` and `send`, and their common settings."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.config.reading import read_env_file
from service.local import environment
from service.local.servers import free_port
from service.local.stack import Stack
from service.local.up import _print_welcome
from service.local.zendesk.samples import samples
from tests.support.processes import ROOT, processes


def test_token_and_secret_are_generated_once_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    first = environment.choose(tmp_path, {}, {}, 8000)
    environment.write(tmp_path / "env", first)

    assert environment.choose(tmp_path, {}, {}, 8000) == first
    assert (tmp_path / "env").stat().st_mode & 0o777 == 0o600


def test_the_users_settings_take_precedence_but_web_stays_on_loopback(tmp_path: Path) -> None:
    own = {
        "API_TOKEN": "mine",
        "STORAGE_URL": "s3://bucket",
        "HOST": "0.0.0.0",
        "PATH": "/bin",
        "REDIS_URL": "",
        "SYNC_URL": "mongodb://one,two/db.emails?w=majority,https://hooks.acme.example/sync?a=1&b=2",
    }
    chosen = environment.choose(tmp_path, own, {"REDIS_URL": "unix:///here"}, 8123)
    environment.write(tmp_path / "env", chosen)

    assert chosen["API_TOKEN"] == "mine"
    assert chosen["STORAGE_URL"] == "s3://bucket"
    assert chosen["REDIS_URL"] == "unix:///here"
    assert read_env_file(tmp_path / "env")["SYNC_URL"] == own["SYNC_URL"]
    assert (chosen["HOST"], chosen["PORT"]) == ("127.0.0.1", "8123")
    assert "PATH" not in chosen


def test_files_from_this_machine_are_allowed_only_without_an_account(tmp_path: Path) -> None:
    alone = environment.choose(tmp_path, {}, {}, 8000)
    real = environment.choose(tmp_path, {"ZENDESK_SUBDOMAIN": "acme"}, {}, 8000)

    assert alone["DOWNLOAD_PRIVATE_NETWORKS"] == "true"
    assert not {"DOWNLOAD_PRIVATE_NETWORKS", "DOWNLOAD_HOSTS"} & real.keys()


def test_any_value_can_be_written_and_read(tmp_path: Path) -> None:
    values = {"A": 'it\'s \\ "quoted" #not $HOME ${HOME}', "B": "", "C": "plain-_./:@%"}
    environment.write(tmp_path / "env", values)

    assert read_env_file(tmp_path / "env") == values


def test_samples_have_the_formats_of_their_names() -> None:
    files = [file for sample in samples() for file in (*sample.files, *sample.inline)]
    beginnings = {"pdf": b"%PDF-1.7", "png": b"\x89PNG\r\n\x1a\n", "csv": b"number,"}

    assert len(samples()) == 20
    assert all(file.content.startswith(beginnings[file.name.rpartition(".")[2]]) for file in files)


@contextmanager
def _holdfast(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command without the settings of this environment."""
    variables = {name: value for name, value in os.environ.items() if name not in environment.names()}
    process = subprocess.Popen(
        [sys.executable, "-m", "service", *arguments],
        cwd=cwd,
        env={**variables, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_up_completes_an_e_mail_of_send_and_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "payload.json").write_text('{"ticket_id": 7, "subject": "Hello"}')
    (tmp_path / "a file.txt").write_bytes(b"bytes" * 1000)
    with _holdfast("up", "--port", str(free_port()), cwd=tmp_path) as up:
        assert up.stdout
        assert any("Holdfast is ready" in line for line in up.stdout)
        with _holdfast("send", "payload.json", "--attach", "a file.txt", cwd=tmp_path) as send:
            output, _ = send.communicate(timeout=60)
        up.send_signal(signal.SIGINT)
        rest = up.stdout.read()

        assert send.returncode == 0, output
        assert up.wait(60) == 0, rest
    assert "e-mail 1: completed, 1/1 files" in output
    stored = [
        path.read_bytes()
        for path in (tmp_path / ".holdfast" / "objects" / "sha256").rglob("*")
        if path.is_file()
    ]
    assert stored == [b"bytes" * 1000]
    assert processes(str(tmp_path)) == []


def test_up_prints_commands_that_find_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"PORT": "1", "STORAGE_URL": "file:///x", "API_TOKEN": "t", "ZENDESK_WEBHOOK_SECRETS": "s"}
    said = {}
    for directory in (".holdfast", "my data", "/elsewhere"):
        _print_welcome(Stack(Path(os.path.realpath(directory)), settings, {}))
        (said[directory],) = (line for line in capsys.readouterr().out.splitlines() if "try it" in line)

    assert "--env-file" not in said[".holdfast"]
    assert " --env-file 'my data/env' " in said["my data"]
    assert " --env-file /elsewhere/env " in said["/elsewhere"]


def test_up_reports_a_taken_port_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with _holdfast("up", "--port", str(port), cwd=tmp_path) as up:
            output, _ = up.communicate(timeout=30)

    assert output == f"holdfast: port {port} is taken on 127.0.0.1: choose another with --port\n"
    assert up.returncode == 2
