"""arq's queue in Redis: many messages are enqueued, or dequeued, in one command each.

Keys and formats are arq's, so that its `enqueue_job` works here as well. Unlike arq's own worker, this one removes a
message when it takes it: arq's asks Redis four times for each job, leaves running jobs on the queue and reads them at
every poll, in order to find the jobs of a dead worker. Here Postgres knows those.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from arq import ArqRedis
from arq.constants import default_queue_name, job_key_prefix
from arq.jobs import DeserializationError, deserialize_job_raw, serialize_job
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)

from service.errors import certificate_problem
from service.json_text import json_text

EXPIRES_MS = 7 * 24 * 3600 * 1000
CHANNEL = "holdfast:bell"
LISTEN_SECONDS = 10.0
PAUSE_SECONDS = 1.0
PROBE_KEY = "holdfast:look-out"
_TOO_FEW_RIGHTS = "it gives the user of REDIS_URL too few rights: allow all commands on arq:* and holdfast:*, keys and channels"

_KEYS = (default_queue_name, job_key_prefix)
# A message on the queue keeps its place, and one whose job an eviction removed gets it back. Workers sleep only when
# they found the queue empty, and so they are woken only where no message was due.
_ENQUEUE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1)
for i = 3, #ARGV, 3 do
    redis.call('SET', KEYS[2] .. ARGV[i], ARGV[i + 2], 'NX', 'PX', ARGV[2])
    redis.call('ZADD', KEYS[1], 'NX', ARGV[i + 1], ARGV[i])
end
if #due == 0 then
    redis.call('PUBLISH', ARGV[1], '')
end
"""
_DEQUEUE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local messages = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])) do
    local key = KEYS[2] .. id
    local job = redis.pcall('GET', key)
    table.insert(messages, id)
    table.insert(messages, type(job) == 'string' and job or '')
    redis.call('DEL', key)
    redis.call('ZREM', KEYS[1], id)
end
return messages
"""


@dataclass(frozen=True, slots=True)
class QueueMessage:
    """A job as arq knows it; due messages with the lowest score are dequeued first."""

    job_id: str
    function: str = ""  # empty: evicted, or written by another program
    arguments: Sequence[Any] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    score: int = 0  # milliseconds since 1970, when it is due


class _Opening:
    """A connection that is not checked while it opens.

    redis-py sends a PING before its first command, and connects again if that fails. Where Redis refuses the connection,
    this goes on inside itself, until Python's stack is full.
    """

    next_health_check: float
    health_check_interval: float

    async def on_connect(self) -> None:
        self.next_health_check = asyncio.get_running_loop().time() + self.health_check_interval
        await super().on_connect()  # type: ignore[misc] # the other base has it


def create_redis(url: str, *, pool_size: int) -> ArqRedis:
    """Make a client with timeouts and retries; nothing connects yet."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=pool_size,
        timeout=5,
        socket_timeout=5,
        socket_connect_timeout=2,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=1, base=0.05), retries=3),
        retry_on_error=[ConnectionError, TimeoutError],
        **({} if url.startswith("unix") else {"socket_keepalive": True}),
    )
    kind = pool.connection_class
    pool.connection_class = type(kind.__name__, (_Opening, kind), {})
    return ArqRedis(pool, job_serializer=serialize, job_deserializer=json.loads, expires_extra_ms=EXPIRES_MS)


async def try_write(redis: ArqRedis) -> None:
    """Write a small key; a replica and a full Redis answer a PING, too."""
    await redis.set(PROBE_KEY, b"1", ex=60)


def reason_of(error: BaseException) -> str:
    """Say in a phrase without secrets why Redis cannot be used."""
    if problem := certificate_problem(error):
        return f"{problem}: REDIS_VERIFY_TLS=false accepts it" if "certificate" in problem else problem
    if isinstance(error, NoPermissionError) or str(error).startswith("ACL failure in script"):
        return _TOO_FEW_RIGHTS
    if refusal := _refusal_of_writes(error):
        return refusal
    cause: BaseException | None = error
    while cause is not None:  # over a Unix socket, redis-py wraps the error in a ConnectionError
        if isinstance(cause, AuthenticationError):
            return _refusal(cause)
        cause = cause.__cause__
    return type(error).__name__


def _refusal_of_writes(error: BaseException) -> str | None:
    if isinstance(error, ReadOnlyError):
        return "it is a replica and accepts no writes: connect to its primary"
    if isinstance(error, OutOfMemoryError):
        return "its memory is full, and it accepts no writes: give it more"
    if str(error).startswith(("MISCONF", "NOREPLICAS")):  # it cannot save, or has too few replicas
        return "it accepts no writes: its log says why"
    return None


def _refusal(error: AuthenticationError) -> str:
    if str(error).startswith("Authentication required"):
        return "it refuses REDIS_URL without a password"
    return "it refuses the user or the password of REDIS_URL"


def serialize(value: dict[str, Any]) -> bytes:
    """Write a job as JSON; with arq's default, pickle, anyone who can write to Redis could run code in a worker."""
    return json_text(value, repr).encode()


class ArqQueue:
    """The queue, for producers and for workers. Its methods raise RedisError and OSError."""

    def __init__(self, redis: ArqRedis) -> None:
        self._redis = redis
        self._enqueue = redis.register_script(_ENQUEUE)
        self._dequeue = redis.register_script(_DEQUEUE)

    async def enqueue(self, messages: Iterable[QueueMessage]) -> None:
        """Put messages on the queue, unless they are there already, and wake the workers."""
        now = int(time.time() * 1000)
        triples: list[Any] = []
        for message in messages:
            arguments, keywords = tuple(message.arguments), dict(message.keywords)
            job = serialize_job(message.function, arguments, keywords, None, now, serializer=serialize)
            triples += (message.job_id, message.score, job)
        await self._enqueue(_KEYS, [CHANNEL, EXPIRES_MS, *triples])

    async def dequeue(self, most: int) -> list[QueueMessage]:
        """Take at most this many due messages off the queue; no other worker gets the same ones."""
        found = await self._dequeue(_KEYS, [most])
        return [
            _read(job_id.decode(errors="replace"), job)
            for job_id, job in zip(found[::2], found[1::2], strict=True)
        ]

    async def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake` when messages arrive, until cancelled; workers also poll, because a call may be missed."""
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(CHANNEL)
                    while True:
                        if await channel.get_message(timeout=LISTEN_SECONDS):
                            wake()
            except (RedisError, OSError):  # the worker loop meets the same error and logs it
                await asyncio.sleep(PAUSE_SECONDS)


def _read(job_id: str, job: bytes) -> QueueMessage:
    try:
        function, arguments, keywords, *_ = deserialize_job_raw(job, deserializer=json.loads)
    except DeserializationError:
        return QueueMessage(job_id)
    return QueueMessage(job_id, function, arguments, keywords)
