"""The endpoint of the sync: what its answers mean, and with which secrets it can tell that a message is ours."""

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
async def kept() -> AsyncIterator[Receiver]:
    async with receiver() as kept:
        yield kept


@asynccontextmanager
async def posting(kept: Receiver, *secrets: str) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(kept.url, secrets or (SECRET,), 30)
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


async def test_whoever_never_took_anything_does_not_refuse_an_email_for_good(kept: Receiver) -> None:
    """Many answer 400 to a signature: with a wrong secret all that waits would fail at once."""
    kept.statuses = [400] * 5
    async with posting(kept) as endpoint:
        errors = [await write(endpoint, f"key-{number}") for number in range(5)]

    assert [(type(error), getattr(error, "code", None)) for error in errors] == [
        (Transient, "receiver_refused")
    ] * 5


async def test_an_email_is_refused_for_good_where_others_are_taken(kept: Receiver) -> None:
    async with posting(kept) as endpoint:
        codes = []
        for status in (200, 400, 400, 200, 400):
            kept.statuses = [] if status == 200 else [status]
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
async def test_what_can_only_be_about_the_email_needs_no_other(kept: Receiver, status: int) -> None:
    kept.statuses = [status]
    async with posting(kept) as endpoint:
        assert isinstance(await write(endpoint), Permanent)


@pytest.mark.parametrize("has", [SECRET, OTHER])
async def test_during_a_rotation_a_receiver_with_either_secret_verifies(kept: Receiver, has: str) -> None:
    kept.secret = has
    async with posting(kept, SECRET, OTHER) as endpoint:
        error = await write(endpoint)

    assert error is None
    assert len(kept.messages) == 1
