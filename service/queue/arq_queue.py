"""The doorbell: arq's queue in Redis, rung for many jobs and answered for many, in one command each.

Keys and formats are arq's, so that its `enqueue_job` rings here as well. What differs is that an answer takes the
jobs off the queue: arq's own worker asks four times for each, leaves those that run on the queue and reads them anew
at every poll. It needs that to find what a dead worker had; here Postgres knows.
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
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from service.errors import certificate_problem

EXPIRES_MS = 7 * 24 * 3600 * 1000
CHANNEL = "holdfast:bell"
LISTEN_SECONDS = 10.0
PAUSE_SECONDS = 1.0

_KEYS = (default_queue_name, job_key_prefix)
# Leaves alone what is there: a job on the queue keeps its place, and one of which an eviction left half is made
# whole. Workers sleep only when they found nothing, so they are woken only where there was nothing.
_RING = """
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
_ANSWER = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answers = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])) do
    local key = KEYS[2] .. id
    local job = redis.pcall('GET', key)
    table.insert(answers, id)
    table.insert(answers, type(job) == 'string' and job or '')
    redis.call('DEL', key)
    redis.call('ZREM', KEYS[1], id)
end
return answers
"""


@dataclass(frozen=True, slots=True)
class Ring:
    """A job as arq knows it; of those that are due, the ones with the lowest score are answered first."""

    job_id: str
    function: str = ""  # none: it was evicted, or not rung by us
    arguments: Sequence[Any] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    score: int = 0  # milliseconds since 1970, when it is due


def create_redis(url: str, *, pool_size: int) -> ArqRedis:
    """Make a client that neither hangs nor gives up at once; nothing connects yet."""
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
    return ArqRedis(pool, job_serializer=serialize, job_deserializer=json.loads, expires_extra_ms=EXPIRES_MS)


def reason_of(error: BaseException) -> str:
    """Say in a phrase, which holds no secret, why Redis cannot be used."""
    if problem := certificate_problem(error):
        return f"{problem}: REDIS_VERIFY_TLS=false accepts it" if "certificate" in problem else problem
    if isinstance(error, AuthenticationError | NoPermissionError):
        return "it refuses the user or the password of REDIS_URL"
    return type(error).__name__


def serialize(value: dict[str, Any]) -> bytes:
    """Write a job as JSON: arq's default, pickle, lets whoever writes to Redis run code in a worker."""
    return json.dumps(value, default=repr).encode()


class Bell:
    """The queue, for those who ring and those who answer. Its methods raise RedisError and OSError."""

    def __init__(self, redis: ArqRedis) -> None:
        self._redis = redis
        self._ring = redis.register_script(_RING)
        self._answer = redis.register_script(_ANSWER)

    async def ring(self, rings: Iterable[Ring]) -> None:
        """Put jobs on the queue that are not there, and wake who listens."""
        now = int(time.time() * 1000)
        triples: list[Any] = []
        for ring in rings:
            job = serialize_job(
                ring.function, tuple(ring.arguments), dict(ring.keywords), None, now, serializer=serialize
            )
            triples += (ring.job_id, ring.score, job)
        await self._ring(_KEYS, [CHANNEL, EXPIRES_MS, *triples])

    async def answer(self, most: int) -> list[Ring]:
        """Take so many jobs off the queue that are due; whoever is given a job is the only one."""
        answers = await self._answer(_KEYS, [most])
        return [
            _read(job_id.decode(errors="replace"), job)
            for job_id, job in zip(answers[::2], answers[1::2], strict=True)
        ]

    async def listen(self, heard: Callable[[], None]) -> None:
        """Call `heard` at each ring, until cancelled; one that is missed is for who looks now and then."""
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(CHANNEL)
                    while True:
                        if await channel.get_message(timeout=LISTEN_SECONDS):
                            heard()
            except (RedisError, OSError):  # the worker notices, too, and tells
                await asyncio.sleep(PAUSE_SECONDS)


def _read(job_id: str, job: bytes) -> Ring:
    try:
        function, arguments, keywords, *_ = deserialize_job_raw(job, deserializer=json.loads)
    except DeserializationError:
        return Ring(job_id)
    return Ring(job_id, function, arguments, keywords)
