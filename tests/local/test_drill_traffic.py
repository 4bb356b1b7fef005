"""A drill sends as Zendesk does, to whoever takes connections, and believes nothing that it was not told."""

import asyncio
import json
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Sequence

import pytest
from aiohttp import web

from service.local.drill.ledger import Ledger, Webhook
from service.local.drill.traffic import Traffic
from service.local.receiver import UNWANTED
from service.local.servers import free_port
from service.local.zendesk.stand_in import Zendesk
from service.zendesk.signature import INVOCATION_ID, SIGNATURE, TIMESTAMP

# None of its first forty webhooks is late or comes twice, and every kind is among them.
SEED = 12
# None of its first forty is late; some come twice.
DOUBLING_SEED = 1
KINDS = {"letter", "bare", "comment", "flaky", "large", "gone", "garbage"}
HANG, RESET = 0, -500
Answer = int | tuple[int, str]  # a status, one with Retry-After, or one of those above


class Receiver:
    """A web process that answers as it is told, and in the end with 200."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: deque[Answer] = deque()
        self.requests: list[tuple[str, ...]] = []  # what is to stay the same of one invocation
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
    """Send so many webhooks; return the ledger, and those that are over, in that order."""
    ledger = Ledger()
    over: list[Webhook] = []
    await Traffic(zendesk, webs, ledger, seed).run(number, 200, over.append)
    return ledger, over


@pytest.mark.parametrize("answer", [409, (503, "0"), (503, "1"), (429, "0")])
async def test_what_zendesk_repeats_is_the_same_invocation_again(
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


async def test_a_time_out_is_repeated_after_ten_seconds(zendesk: Zendesk, receiver: Receiver) -> None:
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
        ((503, "61"), 1, "unknown", None),  # that is not "short"
        ((500, "0"), 1, "unknown", None),
        (503, 1, "unknown", "got 503 without Retry-After"),
        (500, 1, "unknown", "got 500 without Retry-After"),
        (302, 1, "unknown", "got 302 without Retry-After"),
        (404, 1, "refused", "was refused with 404"),
        ((429, "0"), 6, "refused", "was refused with 429"),
        (RESET, 1, "unknown", None),
    ],
)
async def test_what_zendesk_gives_up_is_not_acknowledged(
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


async def test_a_reset_goes_to_no_other_web_process(zendesk: Zendesk, receiver: Receiver) -> None:
    """Who knows whether it was taken: to send it on would be a second delivery, which Zendesk does not make."""
    receiver.answers.extend([RESET] * 10)
    _, (webhook,) = await _send(zendesk, [receiver.url, f"{receiver.url}/other"])

    assert (webhook.outcome, len(receiver.requests)) == ("unknown", 1)


async def test_what_one_web_process_does_not_let_in_goes_to_the_other(
    zendesk: Zendesk, receiver: Receiver
) -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    ledger, _ = await _send(zendesk, [closed, receiver.url], number=10)

    assert ledger.count("ok") == len(receiver.requests) == 10
    assert ledger.unexpected == []


async def test_without_any_web_process_nothing_is_acknowledged(zendesk: Zendesk) -> None:
    ledger, over = await _send(zendesk, [f"http://127.0.0.1:{free_port()}"], number=10)

    assert len(over) == ledger.count("unknown") == 10
    assert ledger.unexpected == []


async def test_a_webhook_that_comes_twice_is_one_invocation(zendesk: Zendesk, receiver: Receiver) -> None:
    ledger, _ = await _send(zendesk, [receiver.url], number=40, seed=DOUBLING_SEED)
    invocations = defaultdict(set)
    for body, request in zip(receiver.bodies, receiver.requests, strict=True):
        invocations[body].add(request)

    sends = [webhook.sends for webhook in ledger.webhooks.values()]
    assert {1, 3} == set(sends)
    assert len(receiver.requests) == sum(sends)
    assert len(invocations) == 40
    assert {len(requests) for requests in invocations.values()} == {1}


async def test_the_same_seed_sends_the_same_whatever_becomes_of_it(
    zendesk: Zendesk, receiver: Receiver
) -> None:
    calm, _ = await _send(zendesk, [receiver.url], number=40)
    receiver.answers.extend([RESET, (503, "0"), 404] * 40)
    stormy, _ = await _send(zendesk, [f"http://127.0.0.1:{free_port()}", receiver.url], number=40)
    other, _ = await _send(zendesk, [receiver.url], number=40, seed=DOUBLING_SEED)

    sent, again, else_ = (
        {ticket: (webhook.kind, webhook.files, webhook.code) for ticket, webhook in ledger.webhooks.items()}
        for ledger in (calm, stormy, other)
    )
    assert {kind for kind, _, _ in sent.values()} == KINDS
    assert sent == again
    assert sent != else_


async def test_a_poison_is_announced_and_sent_until_it_is_taken(zendesk: Zendesk, receiver: Receiver) -> None:
    receiver.answers.append(RESET)
    ledger = Ledger()
    announced: list[tuple[str, int]] = []
    taken = await Traffic(zendesk, [receiver.url], ledger, SEED).send_poison(
        "poison.hang", lambda ticket: announced.append((ticket, len(receiver.requests)))
    )

    (webhook,) = ledger.webhooks.values()
    assert taken
    assert announced == [(webhook.ticket_id, 0)]
    assert (webhook.code, webhook.outcome, webhook.sends) == ("abandoned", "ok", 2)
    assert receiver.requests == [receiver.requests[0]] * 2


async def test_an_unwanted_letter_is_a_good_one_that_the_target_refuses(
    zendesk: Zendesk, receiver: Receiver
) -> None:
    receiver.answers.append(RESET)
    ledger = Ledger()
    taken = await Traffic(zendesk, [receiver.url], ledger, SEED).send_unwanted("target.refusing")

    (webhook,) = ledger.webhooks.values()
    assert taken
    assert (webhook.code, webhook.sync_code, webhook.outcome) == (None, "document_refused", "ok")
    assert json.loads(webhook.body)["subject"] == UNWANTED
    assert webhook.files


async def test_garbage_is_no_json_and_the_rest_is(zendesk: Zendesk, receiver: Receiver) -> None:
    ledger, _ = await _send(zendesk, [receiver.url], number=40)
    for webhook in ledger.webhooks.values():
        if webhook.is_garbage:
            with pytest.raises(json.JSONDecodeError):
                json.loads(webhook.body)
        else:
            assert json.loads(webhook.body)["ticket_id"] == webhook.ticket_id
