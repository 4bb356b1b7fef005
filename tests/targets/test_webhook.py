"""The webhook target: the meaning of its answers, and signatures during a rotation of the secret."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from service.errors import HoldfastError, Permanent, Transient
from service.targets.document import Document
from service.targets.webhook import Endpoint
from tests.support.targets import SECRET, Receiver, receiver

OTHER = "whsec_b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXI="


@pytest.fixture
async def endpoint_server() -> AsyncIterator[Receiver]:
    async with receiver() as server:
        yield server


@asynccontextmanager
async def posting(endpoint_server: Receiver, *secrets: str) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(endpoint_server.url, secrets or (SECRET,), 30)
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


async def test_retry_after_header_with_a_date_becomes_a_pause(endpoint_server: Receiver) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    endpoint_server.statuses, endpoint_server.headers = (
        [503],
        {"Retry-After": format_datetime(until, usegmt=True)},
    )
    async with posting(endpoint_server) as endpoint:
        error = await write(endpoint)

    assert isinstance(error, Transient)
    assert error.retry_after
    assert timedelta(minutes=50) < error.retry_after <= timedelta(hours=1)


async def test_400_is_transient_until_the_receiver_accepted_a_document(endpoint_server: Receiver) -> None:
    """Many receivers answer 400 to a bad signature: with a wrong secret all waiting e-mails would fail at once."""
    endpoint_server.statuses = [400] * 5
    async with posting(endpoint_server) as endpoint:
        errors = [await write(endpoint, f"key-{number}") for number in range(5)]

    assert [(type(error), getattr(error, "code", None)) for error in errors] == [
        (Transient, "receiver_refused")
    ] * 5


async def test_400_is_permanent_after_the_receiver_accepted_another_document(
    endpoint_server: Receiver,
) -> None:
    async with posting(endpoint_server) as endpoint:
        codes = []
        for status in (200, 400, 400, 200, 400):
            endpoint_server.statuses = [] if status == 200 else [status]
            error = await write(endpoint)
            codes.append((type(error), error.code) if error else None)

    assert codes == [
        None,
        (Permanent, "document_refused"),
        (Transient, "receiver_refused"),
        None,
        (Permanent, "document_refused"),
    ]


@pytest.mark.parametrize("status", [413, 422])
async def test_413_and_422_are_permanent_at_once(endpoint_server: Receiver, status: int) -> None:
    endpoint_server.statuses = [status]
    async with posting(endpoint_server) as endpoint:
        assert isinstance(await write(endpoint), Permanent)


@pytest.mark.parametrize("has", [SECRET, OTHER])
async def test_receiver_verifies_with_either_secret_during_a_rotation(
    endpoint_server: Receiver, has: str
) -> None:
    endpoint_server.secret = has
    async with posting(endpoint_server, SECRET, OTHER) as endpoint:
        error = await write(endpoint)

    assert error is None
    assert len(endpoint_server.messages) == 1
