"""A back-fill that is on, and a Zendesk that hides nothing of the last minute."""

import pytest

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk


@pytest.fixture
def settings(settings: Settings, zendesk: Zendesk) -> Settings:
    zendesk.state.listings.hidden_seconds = 0
    return settings.model_copy(update={"backfill_minutes": 5})
