"""Receipts of purges and erasures, with the removals that are still under way: objects, and documents in the targets."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import computed_field
from sqlalchemy import BigInteger, Integer, bindparam, text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.errors import Rejected
from service.postgres.engine import connect
from service.postgres.removal_tables import TARGET_DUE, TO_REMOVE
from service.queries.pages import PageFilter, cut
from service.queries.views import View


class ReceiptView(View):
    """What one purge or one erasure removed."""

    id: int
    kind: Literal["purge", "erasure"]
    status: Literal["running", "done"]
    actor: str
    reason: str | None  # of an erasure
    rules: Mapping[str, int] | None  # of a purge: e-mails by retention rule
    begun_at: datetime
    ended_at: datetime | None  # when the last e-mail was removed
    emails: int
    files: int
    bytes: int
    held: int  # e-mails that a hold kept
    objects: int  # different files, message records and originals of the e-mails; 0 while it runs
    objects_removed: int
    objects_waiting: int
    objects_locked: int  # the storage refuses to remove them
    lock_reason: str | None
    documents_waiting: int  # documents in targets that are still to be replaced
    document_error_code: str | None
    digest: str | None  # the SHA-256 of the list of what was removed

    @computed_field  # type: ignore[prop-decorator] # as pydantic documents it
    @property
    def objects_kept(self) -> int:
        """Return the number of objects that other e-mails share."""
        left = self.objects - self.objects_removed - self.objects_waiting - self.objects_locked
        return max(0, left) if self.status == "done" else 0


class ReceiptPage(View):
    """Receipts, newest first."""

    receipts: Sequence[ReceiptView]
    next_cursor: str | None


async def list_receipts(engine: AsyncEngine, wanted: PageFilter) -> ReceiptPage:
    """Return a page of receipts."""
    after = wanted.after()
    given: dict[str, Any] = {"before": after.id if after else None, "only": None, "most": wanted.limit + 1}
    async with connect(engine) as conn:
        rows = (await conn.execute(_RECEIPTS, given)).mappings().all()
    shown, cursor = cut(rows, wanted.limit, "begun_at")
    return ReceiptPage(receipts=[ReceiptView(**row) for row in shown], next_cursor=cursor)


async def get_receipt(engine: AsyncEngine, receipt_id: int) -> ReceiptView:
    """Return a receipt; raises Rejected (404)."""
    given = {"before": None, "only": receipt_id, "most": 1}
    async with connect(engine) as conn:
        row = (await conn.execute(_RECEIPTS, given)).mappings().one_or_none()
    if row is None:
        raise Rejected(404, "receipt_not_found", f"There is no receipt {receipt_id}.")
    return ReceiptView(**row)


# Rows of removals under way are few: partial indexes have them.
_RECEIPTS = text(f"""
SELECT receipts.id, kind, status, actor, receipts.reason, rules, begun_at, ended_at, emails, files, bytes, held, objects,
    objects_removed, object.waiting AS objects_waiting, object.locked AS objects_locked, object.reason AS lock_reason,
    document.waiting AS documents_waiting, document.code AS document_error_code, digest
FROM receipts
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE state <> 'locked') AS waiting, count(*) FILTER (WHERE state = 'locked') AS locked,
        min(objects_to_remove.reason) FILTER (WHERE state = 'locked') AS reason
    FROM objects_to_remove WHERE receipt_id = receipts.id AND {TO_REMOVE}
) AS object
CROSS JOIN LATERAL (
    SELECT count(*) AS waiting, min(target_error_code) AS code
    FROM removed_emails WHERE receipt_id = receipts.id AND {TARGET_DUE}
) AS document
WHERE (CAST(:before AS bigint) IS NULL OR receipts.id < :before) AND (CAST(:only AS bigint) IS NULL OR receipts.id = :only)
ORDER BY receipts.id DESC LIMIT :most
""").bindparams(  # noqa: S608 constants of ours
    bindparam("before", type_=BigInteger()),
    bindparam("only", type_=BigInteger()),
    bindparam("most", type_=Integer()),
)
