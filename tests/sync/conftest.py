"""A target that accepts documents."""

from collections.abc import AsyncIterator

import pytest

from tests.support.targets import Receiver, receiver


@pytest.fixture
async def endpoint() -> AsyncIterator[Receiver]:
    async with receiver() as kept:
        yield kept
