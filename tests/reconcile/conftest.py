"""Fixtures: each kind of storage, and resources opened with it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.config.settings import Settings
from service.resources import Resources, open_resources
from tests.support.places import Directory, InBucket, Place
from tests.support.s3 import Bucket


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "disk":
        return Directory(tmp_path / "objects")
    bucket: Bucket = request.getfixturevalue("bucket")
    return InBucket(bucket)


@pytest.fixture
def stored(settings: Settings, place: Place) -> Settings:
    return settings.model_copy(update={"storage_url": place.url})


@pytest.fixture
async def there(stored: Settings, res: Resources) -> AsyncIterator[Resources]:
    async with open_resources(stored) as opened:
        yield opened
