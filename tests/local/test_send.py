"""`holdfast send` lets an e-mail reach the demo's stand-in, or sends its payload as it is."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from arq.worker import Worker
from click import ClickException

from service.config.settings import Settings
from service.local import environment
from service.local.launch import alone
from service.local.send import find_installation
from service.local.zendesk.stand_in import Zendesk
from service.zendesk.messages import read_page
from tests.conftest import Client
from tests.support.commands import command
from tests.support.files import PDF

EMAIL = {
    "ticket_id": 7,
    "subject": "RE 2026/1003",
    "from_name": "Jörg Häußler",
    "from_email": "joerg@customer.example",
    "body_text": "Grüße aus Köln",
}
WHY = "because its body is no e-mail that Holdfast can read"


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    return tmp_path / "payload.json"


async def test_an_e_mail_reaches_the_stand_in_and_is_announced_by_its_ids_alone(
    client: Client, worker: Worker, zendesk: Zendesk, settings: Settings, payload: Path, tmp_path: Path
) -> None:
    await asyncio.to_thread(payload.write_text, json.dumps(EMAIL))
    await asyncio.to_thread((tmp_path / "a.pdf").write_bytes, PDF)
    done = await command(
        settings, "send", str(payload), "--attach", str(tmp_path / "a.pdf"), "--url", client.url
    )
    ((comment,),) = zendesk.state.comments.values()
    (message,) = read_page({"comments": [comment], "users": list(zendesk.state.users.values())})
    detail = await client.email(1)

    assert done.returncode == 0, done.stderr
    assert f'"ticket_id": "7", "comment_id": "{message.comment_id}"' in done.stdout
    assert "Köln" not in done.stdout
    assert f"e-mail 1: completed, 1/1 files\n{client.url}/emails/1\n" in done.stdout
    assert (message.text, message.sender.name) == ("Grüße aus Köln", "Jörg Häußler")
    assert zendesk.state.tickets["7"]["subject"] == "RE 2026/1003"
    assert [file.content_type for file in message.files] == ["application/pdf"]
    assert [(file["file_name"], file["size"]) for file in detail["attachments"]] == [("a.pdf", len(PDF))]


@pytest.mark.parametrize(
    "sent",
    [
        {**EMAIL, "comment_id": "12"},
        {**EMAIL, "attachments": []},
        {name: value for name, value in EMAIL.items() if name != "ticket_id"},
        [EMAIL],
    ],
)
async def test_another_payload_is_sent_byte_for_byte(
    client: Client, zendesk: Zendesk, settings: Settings, payload: Path, sent: Any, database: Any
) -> None:
    body = json.dumps(sent, indent=3)
    await asyncio.to_thread(payload.write_text, body)
    done = await command(settings, "send", str(payload), "--url", client.url)
    emails = await database.fetch("SELECT raw_body FROM incoming_emails")
    quarantined = await database.fetch("SELECT raw_body FROM quarantined_webhooks")
    (kept,) = [row["raw_body"] for row in (*emails, *quarantined)]

    assert done.returncode == len(quarantined), done.stderr
    assert (f"It is in quarantine, {WHY}: {client.url}/quarantine/1\n" in done.stdout) == bool(quarantined)
    assert zendesk.state.comments == {}
    assert kept == body.encode()


async def test_a_stand_in_that_has_ended_is_named_in_one_line(settings: Settings, payload: Path) -> None:
    await asyncio.to_thread(payload.write_text, json.dumps(EMAIL))
    done = await command(settings, "send", str(payload), ZENDESK_URL="http://127.0.0.1:9")

    assert done.returncode == 1
    assert done.stderr.startswith("Error: no answer from http://127.0.0.1:9: ")
    assert done.stderr.endswith("is `holdfast demo` running?\n")


@pytest.fixture
def demo_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a demo's settings into the directory of the test, and forget all others."""
    for name in environment.names():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    file = Path(".holdfast/demo/env")
    file.parent.mkdir(parents=True)
    environment.write(
        file, {"PORT": "8123", "ZENDESK_URL": "http://127.0.0.1:9", "ZENDESK_WEBHOOK_SECRETS": "demo"}
    )
    return file


def test_a_running_demo_gets_what_names_no_installation(demo_file: Path) -> None:
    with alone(demo_file.parent):
        there = find_installation(None, None)

    assert (there.url, there.secret, there.has_stand_in) == ("http://127.0.0.1:8123", "demo", True)


@pytest.mark.parametrize(
    "own", [{"PORT": "8124"}, {"API_TOKEN": "x"}, {"ZENDESK_WEBHOOK_SECRETS": "own"}, {}]
)
def test_what_names_an_installation_never_goes_to_the_demo(
    demo_file: Path, monkeypatch: pytest.MonkeyPatch, own: dict[str, str]
) -> None:
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    with alone(demo_file.parent):
        there = find_installation(None if own else "https://holdfast.example/", None)

    assert there.url == (
        "https://holdfast.example" if not own else f"http://127.0.0.1:{own.get('PORT', 8000)}"
    )
    assert not there.has_stand_in
    assert there.settings.get("ZENDESK_WEBHOOK_SECRETS") == own.get("ZENDESK_WEBHOOK_SECRETS")
    with pytest.raises(ClickException, match=f"DATABASE_URL is not set.* add --env-file {demo_file}$"):
        there.require("DATABASE_URL")


def test_the_file_of_a_demo_that_has_ended_is_not_used(demo_file: Path) -> None:
    with alone(demo_file.parent):
        pass
    there, named = find_installation(None, None), find_installation(None, demo_file)

    assert (there.url, named.url) == ("http://127.0.0.1:8000", "http://127.0.0.1:8123")
    with pytest.raises(
        ClickException, match=f"SECRETS is not set: .*; {demo_file} is of a demo that has ended$"
    ):
        _ = there.secret


def test_the_file_of_up_comes_before_that_of_a_demo(demo_file: Path) -> None:
    environment.write(Path(".holdfast/env"), {"PORT": "8125", "ZENDESK_WEBHOOK_SECRETS": "up"})
    with alone(demo_file.parent):
        there = find_installation(None, None)

    assert (there.url, there.secret) == ("http://127.0.0.1:8125", "up")


async def test_the_stand_in_takes_no_e_mail_without_credentials(zendesk: Zendesk, client: Client) -> None:
    async with client.session.post(f"{zendesk.url}/stand-in/emails", json={**EMAIL, "files": []}) as response:
        assert response.status == 401

    assert zendesk.state.comments == {}


@pytest.mark.parametrize(
    ("kind", "files"), [("mail", 2), ("thin", 2), ("event", 1), ("late", 2), ("duplicate", 2)]
)
async def test_each_kind_of_e_mail_becomes_one_with_its_files(
    client: Client, worker: Worker, settings: Settings, kind: str, files: int
) -> None:
    done = await command(settings, "trigger", kind, "--url", client.url)
    page = await client.get("/api/v1/emails")
    detail = await client.email(1)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f"e-mail 1: completed, {files}/{files} files\n{client.url}/emails/1\n")
    assert page["total"] == 1
    assert [file["status"] for file in detail["attachments"]] == ["stored"] * files
    assert detail["announcements"] == []
    assert detail["late"] == (kind == "late")


async def test_a_broken_template_ends_in_quarantine(client: Client, settings: Settings) -> None:
    done = await command(settings, "trigger", "broken", "--url", client.url)

    assert done.returncode == 0, done.stderr
    assert f"It is in quarantine, {WHY}: {client.url}/quarantine/1\n" in done.stdout


async def test_without_a_stand_in_the_command_serves_the_files(
    client: Client, worker: Worker, settings: Settings
) -> None:
    """As for an installation whose Zendesk is the real one; this one has no credentials."""
    done = await command(
        settings, "trigger", "mail", "--url", client.url, ZENDESK_URL="https://acme.zendesk.com"
    )

    assert "e-mail 1: " in done.stdout
    assert "stand-in" not in done.stdout
    assert [file["status"] for file in (await client.email(1))["attachments"]] == ["stored"] * 2
