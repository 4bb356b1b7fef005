"""A drill sends as Zendesk does, through a router, and counts only acknowledged webhooks as accepted."""

import asyncio
import json
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Sequence

import pytest
from aiohttp import web

from service.local.drill.emails import KINDS
from service.local.drill.ledger import Ledger, Webhook
from service.local.drill.traffic import Traffic
from service.local.receiver import UNWANTED
from service.local.servers import free_port
from service.local.zendesk.stand_in import Zendesk
from service.zendesk.signature import INVOCATION_ID, SIGNATURE, TIMESTAMP

# Its first forty webhooks have every kind; none is late or sent twice.
SEED = 17
# Among its first forty webhooks, some are sent twice; none is late.
DOUBLING_SEED = 1
ALL_KINDS = {"letter", "bare", "flaky", "large", "gone", "garbage", *KINDS}
HANG, RESET = 0, -500
Answer = int | tuple[int, str]  # a status, a status with Retry-After, HANG or RESET


class Receiver:
    """A web process that gives the scripted answers, and then 200."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: deque[Answer] = deque()
        self.requests: list[tuple[str, ...]] = []  # path and headers, which stay the same for one invocation
        self.bodies: list[bytes] = []

    async def receive(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.bodies.append(body)
        names = (INVOCATION_ID, TIMESTAMP, SIGNATURE)
        self.requests.append((request.path, *(request.headers[name] for name in names)))
        answer = self.answers.popleft() if self.answers else 200
        if answer == HANG:
            await asyncio.Event().wait()
        if answer == RESET and request.transport:
            request.transport.abort()
        if answer == 200:
            return web.json_response({"status": "accepted", "email_id": 7})
        status, after = answer if isinstance(answer, tuple) else (answer, None)
        return web.Response(status=abs(status), headers={"Retry-After": after} if after else {})


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/{name:.*}", receiver.receive)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield receiver
    await runner.cleanup()


async def _send(
    zendesk: Zendesk, webs: Sequence[str], number: int = 1, seed: int = SEED
) -> tuple[Ledger, list[Webhook]]:
    """Send webhooks; return the ledger, and the webhooks in the order in which they ended."""
    ledger = Ledger()
    ended: list[Webhook] = []
    await Traffic(zendesk, webs, ledger, seed).run(number, 200, ended.append)
    return ledger, ended


@pytest.mark.parametrize("answer", [409, (503, "0"), (503, "1"), (429, "0")])
async def test_a_repetition_is_the_same_invocation(
    answer: Answer, zendesk: Zendesk, receiver: Receiver
) -> None:
    receiver.answers.append(answer)
    began = time.monotonic()
    ledger, (webhook,) = await _send(zendesk, [receiver.url])

    assert (webhook.outcome, webhook.ids, webhook.sends) == ("ok", {7}, 1)
    assert ledger.unexpected == []
    assert receiver.requests == [receiver.requests[0]] * 2
    assert receiver.bodies == [webhook.body] * 2
    assert receiver.requests[0][0] == "/webhooks/zendesk"
    if answer in {409, (503, "1")}:
        assert time.monotonic() - began > 0.9


async def test_a_timeout_is_repeated_after_ten_seconds(zendesk: Zendesk, receiver: Receiver) -> None:
    receiver.answers.append(HANG)
    began = time.monotonic()
    ledger, (webhook,) = await _send(zendesk, [receiver.url])

    assert 9 < time.monotonic() - began < 60
    assert (webhook.outcome, ledger.unexpected) == ("ok", [])
    assert receiver.requests == [receiver.requests[0]] * 2


@pytest.mark.parametrize(
    ("answer", "requests", "outcome", "complaint"),
    [
        ((503, "0"), 6, "unknown", None),
        ((503, "61"), 1, "unknown", None),  # longer than "short"
        ((500, "0"), 1, "unknown", None),
        (503, 1, "unknown", "got 503 without Retry-After"),
        (500, 1, "unknown", "got 500 without Retry-After"),
        (302, 1, "unknown", "got 302 without Retry-After"),
        (404, 1, "refused", "was refused with 404"),
        ((429, "0"), 6, "refused", "was refused with 429"),
        (RESET, 1, "unknown", None),
    ],
)
async def test_a_webhook_that_zendesk_gives_up_is_not_acknowledged(
    answer: Answer,
    requests: int,
    outcome: str,
    complaint: str | None,
    zendesk: Zendesk,
    receiver: Receiver,
) -> None:
    receiver.answers.extend([answer] * 10)
    ledger, (webhook,) = await _send(zendesk, [receiver.url])

    assert (webhook.outcome, webhook.ids) == (outcome, set())
    assert receiver.requests == [receiver.requests[0]] * requests
    assert ledger.unexpected == ([f"ticket 100000 {complaint}"] if complaint else [])
    assert ledger.count("ok") == 0


async def test_a_reset_request_is_not_sent_to_another_web_process(
    zendesk: Zendesk, receiver: Receiver
) -> None:
    """Its outcome is unknown, and Zendesk does not repeat it."""
    receiver.answers.extend([RESET] * 10)
    _, (webhook,) = await _send(zendesk, [receiver.url, f"{receiver.url}/other"])

    assert (webhook.outcome, len(receiver.requests)) == ("unknown", 1)


async def test_a_refused_connection_goes_to_another_web_process(zendesk: Zendesk, receiver: Receiver) -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    ledger, _ = await _send(zendesk, [closed, receiver.url], number=10)

    assert ledger.count("ok") == len(receiver.requests) == 10
    assert ledger.unexpected == []


async def test_without_a_web_process_no_webhook_is_acknowledged(zendesk: Zendesk) -> None:
    ledger, ended = await _send(zendesk, [f"http://127.0.0.1:{free_port()}"], number=10)

    assert len(ended) == ledger.count("unknown") == 10
    assert ledger.unexpected == []


async def test_a_webhook_sent_twice_is_one_invocation(zendesk: Zendesk, receiver: Receiver) -> None:
    ledger, _ = await _send(zendesk, [receiver.url], number=40, seed=DOUBLING_SEED)
    invocations = defaultdict(set)
    for body, request in zip(receiver.bodies, receiver.requests, strict=True):
        invocations[body].add(request)

    sends = [webhook.sends for webhook in ledger.webhooks.values()]
    assert {1, 3} == set(sends)
    assert len(receiver.requests) == sum(sends)
    assert len(invocations) == 40
    assert {len(requests) for requests in invocations.values()} == {1}


async def test_the_same_seed_sends_the_same_webhooks_whatever_the_answers(
    zendesk: Zendesk, receiver: Receiver
) -> None:
    calm, _ = await _send(zendesk, [receiver.url], number=40)
    receiver.answers.extend([RESET, (503, "0"), 404] * 40)
    stormy, _ = await _send(zendesk, [f"http://127.0.0.1:{free_port()}", receiver.url], number=40)
    other, _ = await _send(zendesk, [receiver.url], number=40, seed=DOUBLING_SEED)

    first, second, third = (
        {ticket: (webhook.kind, webhook.files, webhook.code) for ticket, webhook in ledger.webhooks.items()}
        for ledger in (calm, stormy, other)
    )
    assert {kind for kind, _, _ in first.values()} == ALL_KINDS
    assert first == second
    assert first != third


async def test_poison_is_announced_and_sent_until_it_is_acknowledged(
    zendesk: Zendesk, receiver: Receiver
) -> None:
    receiver.answers.append(RESET)
    ledger = Ledger()
    announced: list[tuple[str, int]] = []
    acknowledged = await Traffic(zendesk, [receiver.url], ledger, SEED).send_poison(
        "poison.hang", lambda ticket: announced.append((ticket, len(receiver.requests)))
    )

    (webhook,) = ledger.webhooks.values()
    assert acknowledged
    assert announced == [(webhook.ticket_id, 0)]
    assert (webhook.code, webhook.outcome, webhook.sends) == ("abandoned", "ok", 2)
    assert receiver.requests == [receiver.requests[0]] * 2


async def test_an_unwanted_letter_is_valid_but_refused_by_the_target(
    zendesk: Zendesk, receiver: Receiver
) -> None:
    receiver.answers.append(RESET)
    ledger = Ledger()
    acknowledged = await Traffic(zendesk, [receiver.url], ledger, SEED).send_unwanted("target.refusing")

    (webhook,) = ledger.webhooks.values()
    assert acknowledged
    assert (webhook.code, webhook.sync_code, webhook.outcome) == (None, "document_refused", "ok")
    assert json.loads(webhook.body)["subject"] == UNWANTED
    assert webhook.files


async def test_only_garbage_is_no_json(zendesk: Zendesk, receiver: Receiver) -> None:
    ledger, _ = await _send(zendesk, [receiver.url], number=40)
    for webhook in ledger.webhooks.values():
        if webhook.is_garbage:
            with pytest.raises(json.JSONDecodeError):
                json.loads(webhook.body)
        else:
            body = json.loads(webhook.body)
            assert webhook.ticket_id in {body.get("ticket_id"), body.get("detail", {}).get("id")}
