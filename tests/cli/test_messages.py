"""`holdfast emails show`, `download` and `export`: messages on a terminal and as files."""

import asyncio
import io
import json
import zipfile
from pathlib import Path

import asyncpg

from service.config.settings import Settings
from service.resources import Resources
from tests.support.commands import command, read_all, typed
from tests.support.messages import ORIGINAL, PNG, add_message, announce, attach
from tests.support.rows import NOON, add

PARTS = ["message.txt", "message.html", "original.eml", "record.json", "files/logo.png", "manifest.json"]


def unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {f"email-1/{name}": archive.read(name) for name in archive.namelist()}


async def add_email(database: asyncpg.Connection, res: Resources, text: str = "Grüße\nAnn") -> int:
    email_id = await add(database, processing_status="completed", received_at=NOON, completed_at=NOON)
    url = await attach(database, res, email_id, 0)
    await add_message(database, res, email_id, text, f'<img src="{url}">', ORIGINAL)
    return email_id


async def test_show_prints_the_message_and_its_whole_text_on_demand(
    settings: Settings, res: Resources, database: asyncpg.Connection
) -> None:
    text = "Hello \x1b]0;x\x07\n" + "line\n" * 30_000
    email_id = await add_email(database, res, text)
    number = await announce(database, email_id)

    shown = await typed(settings, "emails", "show", "1")
    whole = await typed(settings, "emails", "show", "1", "--text")

    assert (shown.returncode, shown.stderr) == (0, "")
    for words in (
        "from:          Ann <ann@customer.example>",
        "to:            Acme <support@acme.example>",
        "cc:            bob@customer.example",
        "subject:       Invoice",
        "Hello \ufffd]0;x\ufffd",
        "(cut; `holdfast emails show --text 1` prints all of it)",
    ):
        assert words in shown.stdout
    assert shown.stdout.partition("Further webhooks")[2].split()[-1] == str(number)
    assert whole.stdout == text


async def test_show_says_that_the_webhook_is_all_that_is_known(
    settings: Settings, database: asyncpg.Connection
) -> None:
    await add(database, raw_body=b'{"body": "Hello"}', raw_headers="[]", subject="Invoice")
    await add(database)

    shown, nothing = (
        await typed(settings, "emails", "show", "1"),
        await typed(settings, "emails", "show", "2"),
    )
    text = await typed(settings, "emails", "show", "2", "--text")

    assert "Message, as the webhook says\nsubject:       Invoice\n\n  Hello\n" in shown.stdout
    assert "Message" not in nothing.stdout
    assert (text.returncode, text.stderr) == (1, "Nothing is known of this e-mail's message.\n")


async def test_download_writes_all_of_an_email_as_files_or_as_a_zip(
    settings: Settings, res: Resources, database: asyncpg.Connection, tmp_path: Path
) -> None:
    await add_email(database, res)

    as_files = await command(settings, "emails", "download", "1", "--to", f"{tmp_path}/out")
    as_zip = await command(settings, "emails", "download", "1", "--to", f"{tmp_path}/out", "--zip")

    assert (as_files.returncode, as_files.stdout, as_files.stderr) == (0, "email-1 6 files\n", "")
    assert (as_zip.returncode, as_zip.stdout, as_zip.stderr) == (0, "email-1.zip 6 files\n", "")
    files = await asyncio.to_thread(read_all, tmp_path / "out")
    assert set(files) == {"email-1.zip", *(f"email-1/{part}" for part in PARTS)}
    assert files["email-1/files/logo.png"] == PNG
    assert files["email-1/original.eml"] == ORIGINAL
    assert files["email-1/message.txt"] == "Grüße\nAnn".encode()
    zipped = unzipped(files["email-1.zip"])
    assert zipped == {name: content for name, content in files.items() if name != "email-1.zip"}


async def test_download_of_a_damaged_email_writes_no_zip_and_the_others(
    settings: Settings, res: Resources, database: asyncpg.Connection, tmp_path: Path
) -> None:
    await add_email(database, res)
    await add_email(database, res, "other")
    key = await database.fetchval("SELECT record_key FROM messages WHERE email_id = 1")
    place = tmp_path / "objects" / key
    record = await asyncio.to_thread(place.read_bytes)
    await asyncio.to_thread(place.write_bytes, record[:-1] + b"!")

    done = await command(settings, "emails", "download", "1", "2", "3", "--to", f"{tmp_path}/out", "--zip")

    assert done.returncode == 1
    assert f"E-mail 1: the object {key} is damaged" in done.stderr
    assert "E-mail 3: There is no e-mail 3." in done.stderr
    assert done.stderr.endswith("2 e-mails could not be written as a whole.\n")
    assert list(await asyncio.to_thread(read_all, tmp_path / "out")) == ["email-2.zip"]


async def test_commands_follow_a_merged_email(
    settings: Settings, res: Resources, database: asyncpg.Connection, tmp_path: Path
) -> None:
    await add_email(database, res)
    await add(database, "merged_emails", id=7, email_id=1, idempotency_key="seven")

    shown = await typed(settings, "emails", "show", "7", "--json")
    done = await command(settings, "emails", "download", "7", "--to", f"{tmp_path}/out", "--zip")

    retried = await typed(settings, "emails", "retry", "7", "8")

    assert (retried.returncode, retried.stdout.split()[0]) == (1, "1")
    assert "There is no e-mail 8" in retried.stderr
    assert await database.fetchval("SELECT processing_status FROM incoming_emails") == "queued"
    assert json.loads(shown.stdout)["id"] == 1
    assert shown.stderr == done.stderr == "E-mail 7 became part of e-mail 1.\n"
    assert done.stdout == "email-1.zip 6 files\n"


async def test_export_carries_message_announcements_record_and_original(
    settings: Settings, res: Resources, database: asyncpg.Connection, tmp_path: Path
) -> None:
    await add_email(database, res)
    number = await announce(database, 1)
    await add(database, subject="webhook", raw_body=b'{"body": "Hello"}', raw_headers="[]")

    done = await command(settings, "emails", "export", "--files", f"{tmp_path}/out")

    webhook, fetched = map(json.loads, done.stdout.splitlines())
    assert (fetched["message"]["source"], fetched["message"]["text"]) == ("zendesk", "Grüße\nAnn")
    assert fetched["message"]["from"]["name"] == "Ann"
    assert [each["id"] for each in fetched["announcements"]] == [number]
    assert (webhook["message"]["source"], webhook["message"]["text"]) == ("webhook", "Hello")
    files = await asyncio.to_thread(read_all, tmp_path / "out")
    assert set(files) == {"1/0-logo.png", "1/record.json", "1/original.eml"}
    assert files["1/original.eml"] == ORIGINAL
