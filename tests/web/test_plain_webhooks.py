"""The short way of a plain webhook differs from the application's way in nothing but time."""

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
from aiohttp import ClientSession, web
from hypothesis import strategies as st
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from service.telemetry.metrics import IGNORED_EVENTS, LATE_WEBHOOKS, SIGNATURE_SKEW, WEBHOOKS
from service.web.app import create_app
from service.web.handling.prefix import Runner as LongWayRunner
from service.web.plain_webhooks import Runner
from service.zendesk.signature import INVOCATION_ID, SIGNATURE, TIMESTAMP, sign
from tests.conftest import EMPTY, Server, serving
from tests.support.any_webhook import broken, draw_many, written
from tests.support.connections import connect, raw
from tests.support.webhooks import IGNORED, NO_HANG, SECRET, TICKET

MOST_BYTES = 3000
# An unknown signature is refused at once.
WITHOUT_CREDENTIALS = {
    "zendesk_url": None,
    "zendesk_oauth_client_id": None,
    "zendesk_oauth_client_secret": None,
}
PATH = "/webhooks/zendesk"
# Ends each connection, so that all answers are read.
LAST = b"GET /nothing HTTP/1.1\r\nHost: holdfast\r\nConnection: close\r\n\r\n"
NOW = datetime.now(UTC)
TIMES = [
    *3 * [f"{NOW:%Y-%m-%dT%H:%M:%SZ}"],
    f"{NOW - timedelta(days=2):%Y-%m-%dT%H:%M:%SZ}",
    "soon",
    "",
    "{1",
]
PATHS = [*6 * [PATH], "/webhooks/zendesk?a=1", "//webhooks/zendesk/", "/webhooks/other"]
MORE = [
    *(
        "Content-Type: application/json",
        "Content-Type: application/x-www-form-urlencoded",
        "Content-Type: \xff",
    ),
    *(
        "Content-Encoding: gzip",
        "Expect: 100-continue",
        "Expect: tea",
        "Upgrade: websocket",
        "Connection: upgrade",
    ),
    *(
        "Connection: close",
        "Connection: keep-alive",
        "X-Forwarded-Proto: https",
        "Authorization: Basic secret",
    ),
    *(
        f"{INVOCATION_ID}: 01H",
        f"{INVOCATION_ID}: 01J",
        f"{INVOCATION_ID}: \xff",
        f"{SIGNATURE}: another",
        "A: " + "a" * 5000,
    ),
    *("Cookie: a=b", "X-Zendesk-Account-Id: 7", "Transfer-Encoding: gzip", "Content-Length: 5", "no header"),
]
METRICS = (WEBHOOKS, LATE_WEBHOOKS, IGNORED_EVENTS, SIGNATURE_SKEW)
TABLES = {
    "incoming_emails": "idempotency_key, zendesk_ticket_id, from_email, subject, sent_at, comment_id, account_id,"
    " invocation_id, raw_body, raw_headers::text, signature_hash, late, reading_hash, attachment_urls::text",
    "attachments": "position, source_url, file_name, declared_type, declared_size",
    "announcements": "idempotency_key, raw_body, signature_hash",
    "quarantined_webhooks": "idempotency_key, raw_body, raw_headers::text, error_code, error",
    "ignored_webhooks": "idempotency_key, raw_body, raw_headers::text, event_type",
}


def request(
    target: tuple[str, str, str], body: bytes, proof: tuple[str, str], more: list[str], framing: str
) -> bytes:
    method, path, version = target
    secret, timestamp = proof
    lines = [f"{method} {path} HTTP/{version}", "Host: holdfast", f"{TIMESTAMP}: {timestamp}", *more]
    lines.append(f"{SIGNATURE}: {sign(secret, timestamp, body)}")
    if framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    elif framing != "none":
        lines.append(f"Content-Length: {len(body) // 2 if framing == 'short' else len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


requests = st.builds(
    request,
    st.tuples(
        st.sampled_from([*6 * ["POST"], "GET", "PUT"]),
        st.sampled_from(PATHS),
        st.sampled_from([*5 * ["1.1"], "1.0"]),
    ),
    written | broken | st.sampled_from([TICKET, TICKET, TICKET, IGNORED, b"", b"x" * (MOST_BYTES + 1)]),
    st.tuples(st.sampled_from([*5 * [SECRET], "another"]), st.sampled_from(TIMES)),
    st.lists(st.sampled_from(MORE), max_size=2),
    st.sampled_from([*5 * ["whole"], "chunked", "short", "none"]),
)
POST, PROOF = ("POST", PATH, "1.1"), (SECRET, TIMES[0])
# A plain webhook, and each single way in which it may be unlike one.
SINGLE = [
    *(request(POST, TICKET, PROOF, more, "whole") for more in ([], *([each] for each in MORE))),
    *(request(("POST", path, "1.1"), TICKET, PROOF, [], "whole") for path in {*PATHS}),
    *(request(POST, body, PROOF, [], "whole") for body in (IGNORED, b"", b"x", b"x" * (MOST_BYTES + 1))),
    *(request(POST, TICKET, (SECRET, time), [], "whole") for time in {*TIMES}),
    *(request(POST, TICKET, PROOF, [], framing) for framing in ("chunked", "short", "none")),
    request(("GET", PATH, "1.1"), TICKET, PROOF, [], "whole"),
    request(("POST", PATH, "1.0"), TICKET, PROOF, [], "whole"),
    request(POST, TICKET, ("another", TIMES[0]), [], "whole"),
    2 * request(POST, TICKET, PROOF, [], "whole"),
]
# Pipelined, cut into two parts at any place; the last request comes with them.
conversations = st.tuples(st.lists(requests, min_size=1, max_size=3).map(b"".join), st.integers(0, 4000))


@dataclass(frozen=True)
class Seen:
    """Everything that a request causes."""

    answers: bytes
    rows: Mapping[str, object]
    counted: Mapping[str, float]
    logged: list[dict[str, object]]
    streak: int


async def observe(client: Server, database: asyncpg.Connection, sent: bytes, cut: int) -> Seen:
    await database.execute(EMPTY)
    client.res.bad_signatures.good()
    before = counters()
    with capture_logs(processors=[merge_contextvars]) as events:
        async with connect(client) as (reader, writer), asyncio.timeout(NO_HANG):
            writer.write(sent[:cut])
            await writer.drain()
            # Bytes behind a closing request make the parser refuse it.
            writer.write(sent[cut:] + (b"" if b"Connection: close" in sent else LAST))
            answers = await reader.read()
    rows = {
        table: sorted(map(repr, await database.fetch(f"SELECT {columns} FROM {table}")))
        for table, columns in TABLES.items()
    }
    counted = {name: count for name, count in (counters() - before).items() if count}
    logged = [{key: value for key, value in event.items() if key != "ms"} for event in events]
    return Seen(
        re.sub(rb"Date: [^\r]*", b"", answers), rows, counted, logged, client.res.bad_signatures.length
    )


def counters() -> Counter[str]:
    """Return all samples but times."""
    samples = [sample for metric in METRICS for each in metric.collect() for sample in each.samples]
    timeless = [each for each in samples if not each.name.endswith(("_sum", "_bucket"))]
    return Counter({f"{each.name}{each.labels}": int(each.value) for each in timeless})


async def test_short_way_differs_from_the_applications_way_in_nothing(
    settings: Settings, zendesk: Zendesk, database: asyncpg.Connection
) -> None:
    limited = settings.model_copy(update={"max_webhook_bytes": MOST_BYTES, **WITHOUT_CREDENTIALS})
    cases = [*((sent, len(sent)) for sent in SINGLE), *await draw_many(conversations)]
    async with (
        serving(limited, zendesk) as short,
        serving(limited, zendesk, kind=LongWayRunner) as long,
    ):
        for sent, cut in cases:
            expected = await observe(long, database, sent, cut)

            assert await observe(short, database, sent, cut) == expected, (sent, cut)


async def test_only_plain_webhooks_with_a_known_signature_pass_the_application_by(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    app = create_app(settings.model_copy(update=WITHOUT_CREDENTIALS))
    statuses: list[int] = []

    async def note(_request: web.Request, response: web.StreamResponse) -> None:
        statuses.append(response.status)

    app.on_response_prepare.append(note)
    runner = Runner(app, access_log=None, shutdown_timeout=2, auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    plain, unknown, misspelt = (
        request(("POST", path, "1.1"), TICKET, (secret, now), [], "whole")
        for path, secret in ((PATH, SECRET), (PATH, "another"), (f"{PATH}/", SECRET))
    )
    async with ClientSession() as session:
        client = Server(runner, session, zendesk)
        answers = await raw(client, plain + unknown + misspelt + LAST)
        await client.stop()

    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert statuses == [401, 200, 404]
