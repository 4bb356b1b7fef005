"""Open the targets that SYNC_URL names, and remember which target accepted which document."""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from typing import Protocol

from service.config.settings import Settings
from service.errors import HoldfastError, Transient
from service.targets.circuit_breaker import CircuitBreakers
from service.targets.document import Document
from service.targets.mongodb import Collection, open_collection
from service.targets.webhook import Endpoint


class Target(Protocol):
    """A place that keeps documents by their keys; it raises our own errors.

    Transient errors concern the whole target: receiver_away, receiver_slow, receiver_busy, receiver_refused, tls_failed.
    Permanent errors concern one document: document_too_large, document_refused, receiver_ahead.
    """

    @property
    def name(self) -> str:
        """The name of its kind, as shown to users."""

    @property
    def can_be_tried(self) -> bool:
        """Whether `check` tests anything; a check of some targets would leave a document there."""

    async def write(self, document: Document) -> None:
        """Write a document unless the target has a later version; safe to repeat, also concurrently."""

    async def check(self) -> None:
        """Raise Transient if the target does not answer, or refuses our credentials."""

    async def close(self) -> None: ...


class AcceptedDocuments:
    """Documents that some targets accepted while another target failed; a retry skips the first.

    Only this process knows them. Beyond MAX_DOCUMENTS the oldest is dropped, and is written once more.
    """

    MAX_DOCUMENTS = 10_000

    def __init__(self) -> None:
        self._targets: OrderedDict[Hashable, frozenset[str]] = OrderedDict()

    def targets_of(self, document: Hashable) -> frozenset[str]:
        """Return the names of the targets that accepted this document."""
        return self._targets.get(document, frozenset())

    def record(self, document: Hashable, targets: Iterable[str]) -> None:
        """Replace the names of the targets that accepted this document; without any, drop it."""
        self._targets.pop(document, None)
        if targets := frozenset(targets):
            self._targets[document] = targets
        while len(self._targets) > self.MAX_DOCUMENTS:
            self._targets.popitem(last=False)


async def write_to(
    target: Target, documents: Sequence[Document], breakers: CircuitBreakers
) -> HoldfastError | None:
    """Write to one target, unless its circuit breaker is open; return the error, which names the target."""
    if refusal := breakers.refusal(target.name):
        return refusal
    error = None
    try:
        for document in documents:
            await target.write(document)
    except HoldfastError as exc:
        exc.message = f"{target.name}: {exc.message}"
        error = exc
    breakers.report(target.name, error if isinstance(error, Transient) else None)
    return error


def open_targets(settings: Settings) -> Sequence[Target]:
    """Open all targets; nothing connects yet. Raises SettingsError, ValueError."""
    return [_open(settings, url.get_secret_value()) for url in settings.sync_url]


def collection_of(targets: Sequence[Target]) -> Collection | None:
    """Return the collection, the only target whose documents can be read back."""
    return next((target for target in targets if isinstance(target, Collection)), None)


def endpoint_of(targets: Sequence[Target]) -> Endpoint | None:
    """Return the endpoint, a target whose documents cannot be read back."""
    return next((target for target in targets if isinstance(target, Endpoint)), None)


def _open(settings: Settings, url: str) -> Target:
    if url.startswith("mongodb"):
        return open_collection(url, settings.sync_seconds, pool_size=settings.syncs_per_process)
    secrets = [secret.get_secret_value() for secret in settings.sync_webhook_secret]
    return Endpoint(url, secrets, settings.sync_seconds)
