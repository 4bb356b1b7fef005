"""Open the targets that SYNC_URL names; what all of them can do."""

from collections.abc import Sequence
from typing import Protocol

from service.config.settings import Settings
from service.targets.document import Document
from service.targets.mongodb import Collection, open_collection
from service.targets.webhook import Endpoint


class Target(Protocol):
    """A place that keeps documents by their keys; what it raises is ours.

    Codes: receiver_away, receiver_slow, receiver_busy, receiver_refused, tls_failed of the place as a whole
    (Transient), document_too_large, document_refused, receiver_ahead of a document (Permanent).
    """

    @property
    def name(self) -> str:
        """What people call its kind."""

    @property
    def can_be_tried(self) -> bool:
        """Whether `check` finds out anything: some leave something there whenever they are asked."""

    async def write(self, document: Document) -> None:
        """Put a document there, unless a later version of it is there; may be repeated, also at the same time."""

    async def check(self) -> None:
        """Raise Transient if it does not answer, or does not let us in."""

    async def close(self) -> None: ...


def open_targets(settings: Settings) -> Sequence[Target]:
    """Open them; nothing connects yet. Raises SettingsError, ValueError."""
    return [_open(settings, url.get_secret_value()) for url in settings.sync_url]


def collection_of(targets: Sequence[Target]) -> Collection | None:
    """Return the target whose documents can be read again, if there is one."""
    return next((target for target in targets if isinstance(target, Collection)), None)


def endpoint_of(targets: Sequence[Target]) -> Endpoint | None:
    """Return the target of which nothing can be read, if there is one."""
    return next((target for target in targets if isinstance(target, Endpoint)), None)


def has_endpoint(targets: Sequence[Target]) -> bool:
    """Tell whether there is a target of which nothing can be read."""
    return endpoint_of(targets) is not None


def _open(settings: Settings, url: str) -> Target:
    if url.startswith("mongodb"):
        return open_collection(url, settings.sync_seconds, pool_size=settings.syncs_per_process)
    secrets = [secret.get_secret_value() for secret in settings.sync_webhook_secret]
    return Endpoint(url, secrets, settings.sync_seconds)
