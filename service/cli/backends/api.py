"""The API of a server: commands on any machine, with the token of a login."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from service.cli.backends.exchange import Exchange, Moved, Server, open_exchange, read_json
from service.cli.backends.port import Archive, Kept, MessageFile, Subject, say_merged
from service.errors import Permanent, Rejected

if TYPE_CHECKING:
    from pydantic import BaseModel

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
    from service.queries.views import AttachmentView, EmailDetail, EmailPage, HoldersPage, View
    from service.queries.webhook_views import (
        IgnoredDetail,
        IgnoredPage,
        QuarantineDetail,
        QuarantinePage,
        RequestView,
    )
    from service.queries.webhooks import IgnoredFilter, QuarantineFilter

V = TypeVar("V", bound="View")

API = "/api/v1"
_PATHS: Mapping[Subject, str] = {"webhook": "/quarantine", "finding": "/findings"}
_KEPT_PATHS: Mapping[Kept, str] = {"quarantined": "/quarantine", "ignored": "/ignored"}
_AT_A_TIME = 8  # requests of an export
_EMAIL = re.compile(r"/emails/([0-9]{1,18})(?:/|$)")


@asynccontextmanager
async def open_api(server: Server) -> AsyncIterator["Api"]:
    """Open the connections to a server."""
    async with open_exchange(server) as exchange:
        yield Api(exchange, server.url)


class Api:
    """The backend of commands on another machine."""

    name = "The server"

    def __init__(self, exchange: Exchange, url: str) -> None:
        self._exchange = exchange
        self._url = url

    async def overview(self) -> "Overview":
        from service.queries.overview import Overview

        return await self._get(Overview, "/overview")

    async def has_worker(self) -> bool:
        return any(worker.state == "alive" for worker in (await self.overview()).workers)

    async def actions(self, wanted: "PageFilter") -> "ActionPage":
        from service.queries.actions import ActionPage

        return await self._get(ActionPage, "/actions", wanted)

    async def alerts(self, limit: int) -> "AlertPage":
        from service.queries.alerts import AlertFilter, AlertPage

        return await self._get(AlertPage, "/alerts", AlertFilter(limit=limit))

    async def ledger(self, wanted: "SourceFilter") -> "Ledger":
        from service.queries.source import Ledger

        return await self._get(Ledger, "/source", wanted)

    async def emails(self, wanted: "EmailFilter") -> "EmailPage":
        from service.queries.views import EmailPage

        return await self._get(EmailPage, "/emails", wanted)

    async def email(self, email_id: int) -> "EmailDetail":
        from service.queries.views import EmailDetail

        return self._view(EmailDetail, (await self._of_email("GET", email_id))[1])

    async def request(self, email_id: int) -> "RequestView":
        from service.queries.webhook_views import RequestView

        return self._view(RequestView, (await self._of_email("GET", email_id, "/request"))[1])

    async def text(self, email_id: int) -> bytes:
        return (await self._of_email("GET", email_id, "/message.txt"))[1]

    async def holders(self, sha256: str) -> "HoldersPage":
        from service.queries.views import HoldersPage

        return await self._get(HoldersPage, f"/attachments/{quote(sha256, safe='')}")

    async def saved_filters(self) -> "SavedFilterPage":
        from service.queries.saved_filters import SavedFilterPage

        return await self._get(SavedFilterPage, "/filters")

    async def details(self, wanted: "EmailFilter") -> "tuple[EmailPage, Sequence[EmailDetail]]":
        page = await self.emails(wanted)
        found: list[EmailDetail] = []
        for start in range(0, len(page.emails), _AT_A_TIME):
            some = page.emails[start : start + _AT_A_TIME]
            read = await asyncio.gather(*(self._detail(each.id) for each in some))
            found += [email for email in read if email]
        return page, found

    @asynccontextmanager
    async def archive(self, email_id: int, near: Path) -> AsyncIterator[Archive]:
        from service.cli.backends.archive import checked, read_parts

        with TemporaryFile(dir=near) as file:
            try:
                await self._save(f"{API}/emails/{email_id}/archive.zip", file)
            except Moved as exc:
                email_id = self._followed(exc, email_id)
                await self._save(f"{API}/emails/{email_id}/archive.zip", file)
            parts = await asyncio.to_thread(read_parts, file)
            yield Archive(email_id, parts, checked(file, parts))

    async def attachment(self, email: "EmailDetail", file: "AttachmentView") -> AsyncIterator[bytes]:
        from service.queries.messages import StoredContent, verified

        path = f"{API}/emails/{email.id}/attachments/{file.position}/content"
        content = StoredContent(file.object_key or "", file.sha256 or "", file.size or 0)
        pieces = self._exchange.pieces(path, may_be_elsewhere=True)
        return _unmoved(verified(pieces, content), email.id)

    async def message_file(self, email: "EmailDetail", name: MessageFile) -> AsyncIterator[bytes]:
        return _unmoved(self._exchange.pieces(f"{API}/emails/{email.id}/{name}"), email.id)

    async def changes(self, wanted: "Selection", watched: Sequence[int]) -> "ChangePage":
        from service.queries.changes import MAX_SEEN, ChangePage

        body = {"filter": _fields(wanted), "watched": list(watched[-MAX_SEEN:])}
        return self._view(ChangePage, await self._post("/changes", body))

    async def arrivals(self) -> "ArrivalPage":
        from service.queries.arrivals import ArrivalPage

        return await self._get(ArrivalPage, "/arrivals")

    async def retry(self, email_id: int, what: "What") -> int:
        return (await self._of_email("POST", email_id, "/sync" if what == "sync" else "/retry"))[0]

    async def dismiss(self, subject: Subject, number: int, reason: str) -> None:
        if subject == "email":
            await self._of_email("POST", number, "/dismiss", {"reason": reason})
        else:
            await self._post(f"{_PATHS[subject]}/{number}/dismiss", {"reason": reason})

    async def undismiss(self, subject: Subject, number: int) -> None:
        if subject == "email":
            await self._of_email("POST", number, "/undismiss")
        else:
            await self._post(f"{_PATHS[subject]}/{number}/undismiss")

    async def failures(self) -> "FailurePage":
        from service.queries.failures import FailurePage

        return await self._get(FailurePage, "/failures")

    async def plan(self, wanted: "Selection", task: "BulkTask") -> "Count":
        from service.postgres.search import Count

        receipt = await self._bulk(wanted, task, dry_run=True)
        return Count(receipt["planned"], receipt["planned_capped"])

    async def start(self, wanted: "Selection", per_second: int, task: "BulkTask") -> int:
        receipt = await self._bulk(wanted, task, per_second=per_second)
        return int(receipt["bulk_retry_id"])

    async def bulk_retries(self) -> "BulkRetryPage":
        from service.queries.retries import BulkRetryPage

        return await self._get(BulkRetryPage, "/retries")

    async def bulk_retry(self, retry_id: int) -> "BulkRetryView":
        from service.queries.retries import BulkRetryView

        return await self._get(BulkRetryView, f"/retries/{retry_id}")

    async def cancel(self, retry_id: int) -> None:
        await self._post(f"/retries/{retry_id}/cancel")

    async def quarantined(self, wanted: "QuarantineFilter") -> "QuarantinePage":
        from service.queries.webhook_views import QuarantinePage

        return await self._get(QuarantinePage, "/quarantine", wanted)

    async def ignored(self, wanted: "IgnoredFilter") -> "IgnoredPage":
        from service.queries.webhook_views import IgnoredPage

        return await self._get(IgnoredPage, "/ignored", wanted)

    async def kept(self, kept_id: int, what: Kept) -> "QuarantineDetail | IgnoredDetail":
        from service.queries.webhook_views import IgnoredDetail, QuarantineDetail

        kind = IgnoredDetail if what == "ignored" else QuarantineDetail
        return await self._get(kind, f"{_KEPT_PATHS[what]}/{kept_id}")

    async def quarantined_ids(self, code: str | None, *, dismissed: bool) -> Sequence[int]:
        from service.cli.filters import collect
        from service.queries.webhooks import QuarantineFilter

        wanted = QuarantineFilter(dismissed=dismissed)
        page = await collect(self.quarantined, wanted, None, "quarantine")
        return sorted(each.id for each in page.quarantine if code in {None, each.error_code})

    async def ignored_ids(self) -> Sequence[int]:
        from service.cli.filters import collect
        from service.queries.webhooks import IgnoredFilter

        page = await collect(self.ignored, IgnoredFilter(), None, "ignored")
        return sorted(each.id for each in page.ignored)

    async def replay(self, kept_id: int, what: Kept) -> tuple[str, int | None]:
        receipt = self._json(await self._post(f"{_KEPT_PATHS[what]}/{kept_id}/replay"))
        return receipt["status"], receipt["email_id"]

    async def correct(self, kept_id: int, body: bytes) -> tuple[str, int | None]:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise Rejected(400, "bad_body", "The corrected body is not UTF-8.") from None
        receipt = self._json(await self._post(f"/quarantine/{kept_id}/correct", {"body": text}))
        return receipt["status"], receipt["email_id"]

    async def page(self, path: str) -> str:
        return self._url + path

    async def _bulk(self, wanted: "Selection", task: "BulkTask", **more: object) -> dict[str, Any]:
        from service.operate.retry import check_finished

        check_finished(wanted.status)
        reason = {} if task.reason is None else {"reason": task.reason}
        body = {"filter": _fields(wanted), "action": task.action, "what": task.what, **reason, **more}
        receipt: dict[str, Any] = self._json(await self._post("/retries", body))
        return receipt

    async def _get(self, kind: type[V], path: str, query: "BaseModel | None" = None) -> V:
        return self._view(kind, await self._exchange.ask("GET", API + path, query=_query(query)))

    async def _post(self, path: str, body: Mapping[str, object] | None = None) -> bytes:
        return await self._exchange.ask("POST", API + path, body=body)

    async def _of_email(
        self, method: str, email_id: int, path: str = "", body: Mapping[str, object] | None = None
    ) -> tuple[int, bytes]:
        """Ask about an e-mail, or about the one that it became part of; return that one's id, and the answer."""
        try:
            answer = await self._exchange.ask(
                method, f"{API}/emails/{email_id}{path}", body=body, is_of_email=True
            )
        except Moved as exc:
            into = self._followed(exc, email_id)
        else:
            return email_id, answer
        return into, await self._exchange.ask(method, f"{API}/emails/{into}{path}", body=body)

    def _followed(self, moved: Moved, email_id: int) -> int:
        """Return the e-mail that this one became part of, and say so."""
        found = _EMAIL.search(moved.location)
        if found is None:
            raise self._unusable("a redirect to no e-mail") from None
        say_merged(email_id, int(found[1]))
        return int(found[1])

    async def _detail(self, email_id: int) -> "EmailDetail | None":
        """Return an e-mail of a list; None if it was removed, or became part of another one, meanwhile."""
        from service.queries.views import EmailDetail

        try:
            answer = await self._exchange.ask("GET", f"{API}/emails/{email_id}", is_of_email=True)
        except Moved:
            return None
        except Rejected as exc:
            if exc.code == "email_not_found":
                return None
            raise
        return self._view(EmailDetail, answer)

    async def _save(self, path: str, file: IO[bytes]) -> None:
        async for piece in self._exchange.pieces(path):
            await asyncio.to_thread(file.write, piece)

    def _view(self, kind: type[V], content: bytes) -> V:
        from service.queries.answers import read_answer

        try:
            return read_answer(kind, self._json(content))
        except ValueError as exc:
            raise self._unusable(str(exc)) from None

    def _json(self, content: bytes) -> Any:  # noqa: ANN401 JSON
        return read_json(content, self._url)

    def _unusable(self, what: str) -> Permanent:
        return Permanent(
            "server_differs",
            f"{self._url} answers in another form ({what}): use a command of the same version as the server.",
        )


async def _unmoved(pieces: AsyncIterator[bytes], email_id: int) -> AsyncIterator[bytes]:
    """Yield the pieces; raises Rejected if the e-mail became part of another one meanwhile."""
    try:
        async for piece in pieces:
            yield piece
    except Moved:
        raise Rejected(404, "email_not_found", f"There is no e-mail {email_id}.") from None


def _fields(wanted: "BaseModel") -> dict[str, Any]:
    return wanted.model_dump(mode="json", exclude_none=True)


def _query(wanted: "BaseModel | None") -> dict[str, str]:
    """Return the parameters that differ from their defaults, as a query string has them."""
    if wanted is None:
        return {}
    fields = wanted.model_dump(mode="json", exclude_defaults=True)
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in fields.items()
    }
