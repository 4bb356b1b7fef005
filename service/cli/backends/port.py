"""What commands need of a Holdfast, whichever way they reach it; both ways answer with the same views."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import click

if TYPE_CHECKING:
    from service.postgres.search import Count
    from service.postgres.selection import BulkTask, Selection, What
    from service.queries.actions import ActionPage
    from service.queries.alerts import AlertPage
    from service.queries.archive import Part
    from service.queries.arrivals import ArrivalPage
    from service.queries.changes import ChangePage
    from service.queries.emails import EmailFilter
    from service.queries.failures import FailurePage
    from service.queries.overview import Overview
    from service.queries.pages import PageFilter
    from service.queries.retries import BulkRetryPage, BulkRetryView
    from service.queries.saved_filters import SavedFilterPage
    from service.queries.source import Ledger, SourceFilter
    from service.queries.views import AttachmentView, EmailDetail, EmailPage, HoldersPage
    from service.queries.webhook_views import (
        IgnoredDetail,
        IgnoredPage,
        QuarantineDetail,
        QuarantinePage,
        RequestView,
    )
    from service.queries.webhooks import IgnoredFilter, QuarantineFilter

Kept = Literal["quarantined", "ignored"]
Subject = Literal["email", "webhook", "finding"]
MessageFile = Literal["record.json", "original.eml"]


@dataclass(frozen=True)
class Archive:
    """All of an e-mail, as files or as their ZIP: one of both can be read, and once."""

    email_id: int
    parts: "Sequence[Part]"
    zipped: AsyncIterator[bytes]


class Backend(Protocol):
    """A Holdfast. All methods raise Rejected, and Transient where it is away.

    Methods about an e-mail that became part of another one are about that one, and say so on stderr.
    """

    name: str  # the other side in sentences, such as "The server is back."

    async def overview(self) -> "Overview": ...
    async def has_worker(self) -> bool: ...
    async def actions(self, wanted: "PageFilter") -> "ActionPage": ...
    async def alerts(self, limit: int) -> "AlertPage": ...
    async def ledger(self, wanted: "SourceFilter") -> "Ledger": ...

    async def emails(self, wanted: "EmailFilter") -> "EmailPage": ...
    async def email(self, email_id: int) -> "EmailDetail": ...
    async def request(self, email_id: int) -> "RequestView": ...
    async def text(self, email_id: int) -> bytes: ...
    async def holders(self, sha256: str) -> "HoldersPage": ...
    async def saved_filters(self) -> "SavedFilterPage": ...
    async def details(self, wanted: "EmailFilter") -> "tuple[EmailPage, Sequence[EmailDetail]]":
        """Return a page of a list, and each of its e-mails with its history and whole texts."""
        ...

    def archive(self, email_id: int, near: Path) -> AbstractAsyncContextManager[Archive]:
        """Open all of an e-mail; a file that must be kept meanwhile is in the directory `near`."""
        ...

    async def attachment(self, email: "EmailDetail", file: "AttachmentView") -> AsyncIterator[bytes]:
        """Open a stored file; its last piece comes only after the hash was compared. Reading raises, too."""
        ...

    async def message_file(self, email: "EmailDetail", name: MessageFile) -> AsyncIterator[bytes]:
        """Open a stored file of the message; reading raises, too."""
        ...

    async def changes(self, wanted: "Selection", watched: Sequence[int]) -> "ChangePage": ...
    async def arrivals(self) -> "ArrivalPage": ...

    async def retry(self, email_id: int, what: "What") -> int:
        """Return the id of the e-mail."""
        ...

    async def dismiss(self, subject: Subject, number: int, reason: str) -> None: ...
    async def undismiss(self, subject: Subject, number: int) -> None: ...

    async def failures(self) -> "FailurePage": ...
    async def plan(self, wanted: "Selection", task: "BulkTask") -> "Count": ...
    async def start(self, wanted: "Selection", per_second: int, task: "BulkTask") -> int:
        """Return the id of the bulk retry."""
        ...

    async def bulk_retries(self) -> "BulkRetryPage": ...
    async def bulk_retry(self, retry_id: int) -> "BulkRetryView": ...
    async def cancel(self, retry_id: int) -> None: ...

    async def quarantined(self, wanted: "QuarantineFilter") -> "QuarantinePage": ...
    async def ignored(self, wanted: "IgnoredFilter") -> "IgnoredPage": ...
    async def kept(self, kept_id: int, what: Kept) -> "QuarantineDetail | IgnoredDetail": ...
    async def quarantined_ids(self, code: str | None, *, dismissed: bool) -> Sequence[int]: ...
    async def ignored_ids(self) -> Sequence[int]: ...
    async def replay(self, kept_id: int, what: Kept) -> tuple[str, int | None]:
        """Return what became of it, and the id of the e-mail."""
        ...

    async def correct(self, kept_id: int, body: bytes) -> tuple[str, int | None]:
        """Replay with a corrected body; return as `replay` does."""
        ...

    async def page(self, path: str) -> str:
        """Return the address of a page of the dashboard."""
        ...


def say_merged(email_id: int, into: int) -> None:
    """Say on stderr that an e-mail became part of another one."""
    click.echo(f"E-mail {email_id} became part of e-mail {into}.", err=True)
