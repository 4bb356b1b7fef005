"""The database, for commands beside the service: they work while no process of it runs."""

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli.backends.port import Archive, Kept, MessageFile, Subject, say_merged

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.postgres.search import Count
    from service.postgres.selection import BulkTask, Selection, What
    from service.queries.actions import ActionPage
    from service.queries.alerts import AlertPage
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
    from service.resources import Resources


@asynccontextmanager
async def open_database(actor: str) -> AsyncIterator["Database"]:
    """Reach the database that the settings name; the actor stands in the list of actions."""
    async with AsyncExitStack() as stack:
        yield Database(stack, actor)


class Database:
    """The backend of commands beside the service.

    Reads open one connection to Postgres, and load no library for other servers. Actions open all resources.
    """

    name = "Postgres"

    def __init__(self, stack: AsyncExitStack, actor: str) -> None:
        self._stack = stack
        self._actor = actor
        self._engine: AsyncEngine | None = None
        self._res: Resources | None = None

    async def overview(self) -> "Overview":
        from service.config.reading import read_settings
        from service.queries import overview

        return await overview.summarize(self.engine, read_settings())

    async def has_worker(self) -> bool:
        from service.postgres.engine import connect
        from service.queries.workers import workers_of

        async with connect(self.engine) as conn:
            return any(worker.state == "alive" for worker in await workers_of(conn))

    async def actions(self, wanted: "PageFilter") -> "ActionPage":
        from service.queries.actions import list_actions

        return await list_actions(self.engine, wanted)

    async def alerts(self, limit: int) -> "AlertPage":
        from service.queries.alerts import list_alerts

        return await list_alerts(self.engine, limit)

    async def ledger(self, wanted: "SourceFilter") -> "Ledger":
        from service.config.reading import read_settings
        from service.queries.source import get_ledger

        return await get_ledger(self.engine, read_settings(), wanted)

    async def emails(self, wanted: "EmailFilter") -> "EmailPage":
        from service.queries.emails import list_emails

        return await list_emails(self.engine, wanted)

    async def email(self, email_id: int) -> "EmailDetail":
        from service.queries.emails import get_email

        return await get_email(self.engine, await followed(self.engine, email_id))

    async def request(self, email_id: int) -> "RequestView":
        from service.queries.emails import get_request

        return await get_request(self.engine, await followed(self.engine, email_id))

    async def text(self, email_id: int) -> bytes:
        from service.errors import Rejected
        from service.queries.emails import get_content

        res = await self._resources()
        _, content = await get_content(res.engine, await followed(res.engine, email_id))
        if content is None:
            raise Rejected(404, "message_not_found", "Nothing is known of this e-mail's message.")
        return (await content.text(res.storage)).encode(errors="replace")

    async def holders(self, sha256: str) -> "HoldersPage":
        from service.queries.emails import list_holders

        return await list_holders(self.engine, sha256)

    async def saved_filters(self) -> "SavedFilterPage":
        from service.queries.saved_filters import list_filters

        return await list_filters(self.engine)

    async def details(self, wanted: "EmailFilter") -> "tuple[EmailPage, Sequence[EmailDetail]]":
        from service.queries.emails import list_details

        return await list_details(self.engine, wanted)

    @asynccontextmanager
    async def archive(self, email_id: int, near: Path) -> AsyncIterator[Archive]:  # noqa: ARG002 nothing is kept
        from service.queries.archive import open_parts, zipped
        from service.queries.emails import get_content

        res = await self._resources()
        email, content = await get_content(res.engine, await followed(res.engine, email_id))
        parts = await open_parts(res.storage, email, content)
        yield Archive(email.id, parts, zipped(parts, email))

    async def attachment(self, email: "EmailDetail", file: "AttachmentView") -> AsyncIterator[bytes]:  # noqa: ARG002 the file has its key
        from service.queries.messages import StoredContent

        content = StoredContent(file.object_key or "", file.sha256 or "", file.size or 0)
        return await content.open((await self._resources()).storage)

    async def message_file(self, email: "EmailDetail", name: MessageFile) -> AsyncIterator[bytes]:
        from service.queries.emails import content_of
        from service.queries.messages import not_fetched

        res = await self._resources()
        message = await content_of(res.engine, email)
        content = None
        if message is not None:
            content = message.record if name == "record.json" else message.original
        if content is None:
            raise not_fetched()
        return await content.open(res.storage)

    async def changes(self, wanted: "Selection", watched: Sequence[int]) -> "ChangePage":
        from service.queries.changes import list_changes

        return await list_changes(self.engine, wanted, watched)

    async def arrivals(self) -> "ArrivalPage":
        from service.queries.arrivals import list_arrivals

        return await list_arrivals(self.engine)

    async def retry(self, email_id: int, what: "What") -> int:
        from service.operate.retry import retry

        res = await self._resources()
        email_id = await followed(res.engine, email_id)
        await retry(res, email_id, self._actor, what)
        return email_id

    async def dismiss(self, subject: Subject, number: int, reason: str) -> None:
        from service.operate import dismiss

        res = await self._resources()
        if subject == "email":
            await dismiss.dismiss(res, await followed(res.engine, number), self._actor, reason)
        elif subject == "webhook":
            await dismiss.dismiss_webhook(res, number, self._actor, reason)
        else:
            await dismiss.dismiss_finding(res, number, self._actor, reason)

    async def undismiss(self, subject: Subject, number: int) -> None:
        from service.operate import dismiss

        res = await self._resources()
        if subject == "email":
            await dismiss.undismiss(res, await followed(res.engine, number), self._actor)
        elif subject == "webhook":
            await dismiss.undismiss_webhook(res, number, self._actor)
        else:
            await dismiss.undismiss_finding(res, number, self._actor)

    async def failures(self) -> "FailurePage":
        from service.queries.failures import list_failures

        return await list_failures(self.engine)

    async def plan(self, wanted: "Selection", task: "BulkTask") -> "Count":
        from service.operate import bulk_retry

        return await bulk_retry.plan(await self._resources(), wanted, task)

    async def start(self, wanted: "Selection", per_second: int, task: "BulkTask") -> int:
        from service.operate import bulk_retry

        return await bulk_retry.start(await self._resources(), wanted, per_second, self._actor, task)

    async def bulk_retries(self) -> "BulkRetryPage":
        from service.queries.retries import list_retries

        return await list_retries(self.engine)

    async def bulk_retry(self, retry_id: int) -> "BulkRetryView":
        from service.queries.retries import get_retry

        return await get_retry(self.engine, retry_id)

    async def cancel(self, retry_id: int) -> None:
        from service.operate import bulk_retry

        await bulk_retry.cancel(await self._resources(), retry_id, self._actor)

    async def quarantined(self, wanted: "QuarantineFilter") -> "QuarantinePage":
        from service.queries.webhooks import list_quarantined

        return await list_quarantined(self.engine, wanted)

    async def ignored(self, wanted: "IgnoredFilter") -> "IgnoredPage":
        from service.queries.webhooks import list_ignored

        return await list_ignored(self.engine, wanted)

    async def kept(self, kept_id: int, what: Kept) -> "QuarantineDetail | IgnoredDetail":
        from service.queries.webhooks import get_ignored, get_quarantined

        return await (get_ignored if what == "ignored" else get_quarantined)(self.engine, kept_id)

    async def quarantined_ids(self, code: str | None, *, dismissed: bool) -> Sequence[int]:
        from service.queries.webhooks import quarantined_ids

        return await quarantined_ids(self.engine, code=code, dismissed=dismissed)

    async def ignored_ids(self) -> Sequence[int]:
        from service.queries.webhooks import ignored_ids

        return await ignored_ids(self.engine)

    async def replay(self, kept_id: int, what: Kept) -> tuple[str, int | None]:
        from service.operate.replay import replay_webhook

        receipt = await replay_webhook(await self._resources(), kept_id, self._actor, what)
        return receipt.status, receipt.number

    async def correct(self, kept_id: int, body: bytes) -> tuple[str, int | None]:
        from service.operate.correct import correct

        receipt = await correct(await self._resources(), kept_id, self._actor, body)
        return receipt.status, receipt.number

    async def page(self, path: str) -> str:
        from service.config.reading import read_settings, setting_error
        from service.errors import SettingsError

        public_url = read_settings().public_url
        if not public_url:
            raise SettingsError(setting_error("public_url", "is not set"))
        return public_url.rstrip("/") + path

    @property
    def engine(self) -> "AsyncEngine":
        """A connection for reads, or the pool of the resources once they are open."""
        if self._res is not None:
            return self._res.engine
        if self._engine is None:
            from service.config.reading import read_settings
            from service.postgres.engine import close_engine, create_engine

            settings = read_settings("database_url")
            assert settings.database_url  # noqa: S101 read_settings requires it
            url = settings.database_url.get_secret_value()
            self._engine = create_engine(url, pool_size=1, seconds=settings.database_seconds)
            self._stack.push_async_callback(close_engine, self._engine)
        return self._engine

    async def _resources(self) -> "Resources":
        if self._res is None:
            import structlog

            from service.postgres.engine import COMMAND
            from service.resources import open_resources, read_settings_for_resources

            structlog.configure(
                wrapper_class=structlog.make_filtering_bound_logger("WARNING"),
                logger_factory=structlog.PrintLoggerFactory(sys.stderr),
            )
            opened = open_resources(read_settings_for_resources(), COMMAND)
            self._res = await self._stack.enter_async_context(opened)
        return self._res


async def followed(engine: "AsyncEngine", email_id: int) -> int:
    """Return the e-mail that this one became part of, and say so; or else the same id."""
    from service.queries.messages import merged_into

    into = await merged_into(engine, email_id)
    if into is None:
        return email_id
    say_merged(email_id, into)
    return into
