"""Hypothesis strategies for the headers and bodies of webhooks."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from multidict import CIMultiDict

from service.zendesk.signature import ACCOUNT_ID, INVOCATION_ID, WEBHOOK_ID
from tests.support.examples import examples as number_of

Headers = CIMultiDict[str]
Case = tuple[Headers, bytes]
T = TypeVar("T")
# Texts include lone surrogates, NULs and all planes. The words make the rare branches likely.
WORDS = [
    "",
    " ",
    "0",
    "\0",
    "\ud800",
    "\udcff",
    "one",
    "https://a/b",
    "zen:ticket:1",
    "1e400",
    "2026-02-30",
    "'\"\\",
]
texts = st.text(st.characters(), max_size=40) | st.sampled_from(WORDS)
numbers = st.integers() | st.integers(10**29, 10**31) | st.floats()
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)
KEYS = [
    "id",
    "ticketId",
    "ticket",
    "subject",
    "title",
    "from_email",
    "from_name",
    "received_at",
    "account_id",
    "webhook_id",
    "comment_id",
    "attachments",
    "type",
    "detail",
    "event",
    "time",
    "tags",
]
FILE_KEYS = ["url", "content_url", "filename", "fileName", "file_name", "content_type", "size"]
files = st.dictionaries(st.sampled_from(FILE_KEYS) | texts, scalars, max_size=6)
dates = st.datetimes().map(str) | st.integers(-(10**14), 10**14).map(str) | texts
types = st.sampled_from(
    [f"zen:event-type:ticket.{kind}" for kind in ("created", "comment_added", "attachment_linked_to_comment")]
)
objects = st.builds(
    lambda fields, attachments, more: fields | attachments | more,
    st.dictionaries(st.sampled_from(KEYS) | texts, values, max_size=8),
    st.just({}) | st.fixed_dictionaries({"attachments": st.lists(files | scalars, max_size=4)}),
    st.fixed_dictionaries({}, optional={"received_at": dates, "type": types, "webhook_id": texts | numbers}),
)
with_ticket = st.builds(
    lambda fields, ticket: {**fields, "ticket_id": ticket}, objects, st.integers(1, 10**26) | texts | values
)
written = st.builds(
    lambda value, indent, ascii_only, encoding: json.dumps(
        value, indent=indent, ensure_ascii=ascii_only
    ).encode(encoding, "surrogatepass"),
    with_ticket,
    st.none() | st.integers(0, 2),
    st.booleans(),
    st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32"]),
)
header_texts = st.text(st.characters(exclude_characters="\r\n\0"), max_size=60) | st.sampled_from(WORDS[3:])
names = st.sampled_from([ACCOUNT_ID, INVOCATION_ID, WEBHOOK_ID, "Authorization", "cookie", "X-Other"])
headers = st.lists(st.tuples(names, header_texts), max_size=6).map(Headers)


def damaged(body: bytes, cuts: list[tuple[int, bytes]]) -> bytes:
    for place, piece in cuts:
        place %= len(body) + 1
        body = body[:place] + piece + body[place + len(piece) :]
    return body


broken = st.builds(
    damaged, written, st.lists(st.tuples(st.integers(0, 10**4), st.binary(max_size=3)), max_size=4)
)


async def try_many(strategy: st.SearchStrategy[Case], check: Callable[[Case], Awaitable[None]]) -> None:
    """Run `check` on this event loop for many examples. Hypothesis draws them in a thread, since it knows no loop."""
    loop = asyncio.get_running_loop()
    given_up = threading.Event()

    @examples(
        max_examples=number_of(100), deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(strategy)
    def run(case: Case) -> None:
        assert not given_up.is_set()
        asyncio.run_coroutine_threadsafe(_awaited(check(case)), loop).result(60)

    try:
        await asyncio.to_thread(run)
    finally:
        given_up.set()


async def draw_many(strategy: st.SearchStrategy[T]) -> Sequence[T]:
    """Draw as many examples at once, while nothing else runs: a web process uses random numbers, and hypothesis objects."""
    drawn: list[T] = []

    @examples(
        max_examples=number_of(100), deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(strategy)
    def draw(example: T) -> None:
        drawn.append(example)

    await asyncio.to_thread(draw)
    return drawn


async def _awaited(work: Awaitable[None]) -> None:
    await work
