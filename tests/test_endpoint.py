"""The endpoint of the sync: what its answers mean, and with which secrets it can tell that a message is ours."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from service.documents import Document
from service.errors import HoldfastError, Transient
from service.targets.webhook import Endpoint
from tests.targets import SECRET, Receiver, receiver


@pytest.fixture
async def kept() -> AsyncIterator[Receiver]:
    async with receiver() as kept:
        yield kept


@asynccontextmanager
async def posting(kept: Receiver) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(kept.url, SECRET, 30)
    try:
        yield endpoint
    finally:
        await endpoint.close()


async def write(endpoint: Endpoint, key: str = "key") -> HoldfastError | None:
    content = {"status": "completed", "completed_at": None, "version": 1}
    try:
        await endpoint.write(Document(key, 1, is_first=True, content=content))
    except HoldfastError as exc:
        return exc
    return None


async def test_a_pause_until_a_time_is_passed_on(kept: Receiver) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    kept.statuses, kept.headers = [503], {"Retry-After": format_datetime(until, usegmt=True)}
    async with posting(kept) as endpoint:
        error = await write(endpoint)

    assert isinstance(error, Transient)
    assert error.retry_after
    assert timedelta(minutes=50) < error.retry_after <= timedelta(hours=1)
