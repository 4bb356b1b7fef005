"""Each event is one line; the lines of an invocation are found by it, and have no other."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
import structlog
from arq.worker import Worker
from structlog.contextvars import bound_contextvars

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.postgres.batch import Batcher
from service.telemetry import logs
from service.telemetry.logs import without_addresses, written_time
from service.zendesk.signature import INVOCATION_ID
from tests.conftest import Server, eventually, working
from tests.support.files import PDF

LIFE = ["webhook_received", "attempt_started", "attachment_stored", "attempt_ended"]


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_closed_log_stream_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    gone = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stdout", gone)
    logs.configure("json", "INFO")

    structlog.get_logger().info("email_received", email=1)

    with pytest.raises(BrokenPipeError):
        gone.close()


def test_each_event_is_one_line_whatever_it_contains(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "INFO")

    structlog.get_logger().info("email_received", name="a\nb\ud800")

    assert capsys.readouterr().out.count("\n") == 1


def test_each_line_has_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "INFO")
    before = datetime.now(UTC)

    for _ in range(3):
        structlog.get_logger().info("email_received", email=1)
    after = datetime.now(UTC)

    written = [datetime.fromisoformat(line["timestamp"]) for line in lines(capsys)]
    times = [before, *written, after]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (1_709_251_199_999_999, "2024-02-29T23:59:59.999999Z"),
        (1_709_251_200_000_000, "2024-03-01T00:00:00.000000Z"),
        (1_709_251_200_000_042, "2024-03-01T00:00:00.000042Z"),
    ],
)
def test_a_time_is_written_in_utc_with_six_digits(microseconds: int, text: str) -> None:
    assert written_time(microseconds) == text


# ── the life of an e-mail


async def test_an_invocations_lines_cover_webhook_to_object(
    client: Server,
    settings: Settings,
    zendesk: Zendesk,
    database: asyncpg.Connection,
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("json", "INFO")
    payloads = {
        name: zendesk.payload(attachments=[zendesk.add_file(f"{name}.pdf", PDF)], webhook_id=f"key of {name}")
        for name in ("one", "two", "three")
    }
    async with working(settings):
        sending = [client.send(body, headers={INVOCATION_ID: name}) for name, body in payloads.items()]
        for receipt in await asyncio.gather(*sending):
            await client.until(receipt["email_id"], "completed")
        emails = dict(await database.fetch("SELECT invocation_id, id FROM incoming_emails"))
    said = lines(capsys)

    for name, email_id in emails.items():
        mine = [line for line in said if line.get("invocation") == name]
        assert [line["event"] for line in mine] == LIFE
        assert {line.get("email", line.get("email_id")) for line in mine} == {email_id}
    stored = next(line for line in said if line["event"] == "attachment_stored")
    assert stored["key"] == f"sha256/{stored['sha256'][:2]}/{stored['sha256'][2:]}"
    assert stored["bytes"] == len(PDF)
    text = json.dumps(said)
    for private in ("Invoice for November", "mara@", "Mara", "/attachments/token", zendesk.secret):
        assert private not in text


async def test_without_an_invocation_id_lines_have_the_key(
    client: Server, worker: Worker, zendesk: Zendesk, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("json", "INFO")
    receipt = await client.send(zendesk.payload(webhook_id="its-key"), headers={INVOCATION_ID: None})
    await client.until(receipt["email_id"], "completed")
    said: list[dict[str, Any]] = []

    async def ended() -> bool:
        said.extend(line for line in lines(capsys) if line.get("invocation") == "its-key")
        return "attempt_ended" in {line["event"] for line in said}

    assert await eventually(ended)
    assert [line["event"] for line in said] == [event for event in LIFE if event != "attachment_stored"]


async def test_a_request_keeps_no_fields_of_the_previous_one(
    client: Server, zendesk: Zendesk, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("json", "INFO")
    host, port = client.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /webhooks/zendesk HTTP/1.1\r\nHost: x\r\n{INVOCATION_ID}: the-first\r\nContent-Length: 0\r\n\r\n"
    writer.write(head.encode())
    assert b"401" in await reader.readline()
    writer.write(b"\x16\x03\x01 no HTTP\r\n\r\n")
    while b"400 Bad Request" not in (line := await reader.readline()):
        assert line
    writer.close()
    await writer.wait_closed()

    assert [line.get("invocation") for line in lines(capsys)] == [None]


async def test_lines_of_a_shared_statement_have_no_invocation(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "INFO")

    async def statement(_conn: object, items: Sequence[int]) -> Sequence[int]:
        structlog.get_logger().info("shared", items=len(items))
        return items

    async def run(call: Any, items: Sequence[Any]) -> Sequence[Any]:
        result: Sequence[Any] = await call(None, items)
        return result

    async def ask(number: int) -> int:
        with bound_contextvars(invocation=f"of {number}"):
            return await coalesce(statement, number)

    coalesce = Batcher(run)
    answers = await asyncio.gather(*map(ask, range(5)))

    said = lines(capsys)
    assert answers == [0, 1, 2, 3, 4]
    assert sum(line["items"] for line in said) == 5
    assert not any("invocation" in line for line in said)


# ── whatever comes


@pytest.mark.parametrize(
    "text", ["a\nb", "\0\x1b[31m", "\ud800", "\u2028\u2029", '"}', "%s %d", "\x85\x0b\x0c"]
)
def test_each_event_of_a_library_is_one_line_of_json(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "INFO")

    logging.getLogger("aiohttp.server").error(text)
    logging.getLogger("library").warning("%s", text, exc_info=LookupError(text))
    structlog.get_logger().info("event", text=text, value=text.encode(errors="replace"), nothing=float)

    out = capsys.readouterr().out
    assert out.count("\n") == 3
    assert [json.loads(line)["level"] for line in out.split("\n")[:3]] == ["error", "warning", "info"]


def test_a_traceback_shows_no_address(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "INFO")
    secret = "https://user:password@acme.zendesk.com/attachments/token/SECRET/?name=x"

    structlog.get_logger().error("attempt_broke", exc_info=LookupError(f"at '{secret}', twice"))

    assert (
        json.loads(capsys.readouterr().out)["exception"]
        == "LookupError: at 'https://acme.zendesk.com/…', twice"
    )


@pytest.mark.parametrize("name", ["it's.pdf", "report(1).pdf", "('a'),"])
def test_an_address_is_cut_whole_whatever_marks_it_contains(name: str) -> None:
    """yarl writes these marks unescaped."""
    address = f"https://cdn.example/f?name={name}&signature=SECRET"

    assert without_addresses(f"at URL('{address}'), twice") == "at URL('https://cdn.example/…'), twice"


def test_a_long_word_is_searched_in_linear_time() -> None:
    word = "a." * 500_000

    assert without_addresses(f"{word} {word}://host/SECRET") == f"{word} {word}://host/…"
