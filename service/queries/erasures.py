"""Erasures as people see them: what each deleted, in numbers, and never whom it was about."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from pydantic import Field
from sqlalchemy import BigInteger, RowMapping, bindparam, text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.custody.erasure import ErasurePlan
from service.errors import Rejected
from service.postgres.engine import connect
from service.postgres.reconciliation_tables import DONE
from service.queries.pages import PageFilter, cut
from service.queries.views import View


class ErasurePlanView(View):
    """What an erasure would delete now."""

    emails: int = Field(description="E-mails; of a file, those that have it and stay")
    unfinished: int = Field(description="Of these, those whose job has not ended")
    files: int
    bytes: int
    requests: int = Field(description="Raw requests about these e-mails")
    documents: int = Field(description="E-mails that the targets have")
    webhooks: int = Field(description="Requests in quarantine, and ignored ones, that mention it")
    suspended: int = Field(description="E-mails that Zendesk held back as suspended")
    held: Mapping[str, int] = Field(
        description="E-mails, webhooks and suspended e-mails by the hold that forbids the erasure"
    )


class ErasureView(View):
    """An erasure: its progress, or what it deleted. It says nowhere whom or what it was about."""

    id: int
    receipt_id: int
    scope: Literal["sender", "ticket", "email", "file", "zendesk", "restored"]
    status: Literal["running", "done"]
    begun_at: datetime
    ended_at: datetime | None
    actor: str
    reason: str | None
    emails: int
    files: int
    bytes: int
    webhooks: int
    suspended: int
    held_by: Sequence[str] = Field(
        description="Holds that were set since it began: it waits for their release"
    )
    error_code: str | None = Field(
        description="Why it waits, if Postgres refused its last step; it is tried again every hour"
    )
    error: str | None = Field(description="The same in words; it names a table, and no value")
    digest: str | None = Field(description="SHA-256 of the sorted list of what was deleted")
    unclaimed: int = Field(
        description="Objects that the storage has and no e-mail names, as the comparisons since the last whole one"
        " found. Nobody can tell whose they are, so no erasure removes them"
    )


class ErasurePage(View):
    erasures: Sequence[ErasureView]
    next_cursor: str | None


def plan_view(plan: ErasurePlan) -> ErasurePlanView:
    """Return the numbers of a plan."""
    names = ErasurePlanView.model_fields
    return ErasurePlanView(**{name: getattr(plan, name) for name in names})


async def list_erasures(engine: AsyncEngine, wanted: PageFilter) -> ErasurePage:
    """Return a page of erasures, newest first."""
    after = wanted.after()
    given = {"id": after.id if after else None, "limit": wanted.limit + 1}
    async with connect(engine) as conn:
        rows, cursor = cut((await conn.execute(_LIST, given)).mappings().all(), wanted.limit, "begun_at")
    return ErasurePage(erasures=[_view(row) for row in rows], next_cursor=cursor)


async def get_erasure(engine: AsyncEngine, erasure_id: int) -> ErasureView:
    """Return an erasure; raises Rejected (404)."""
    async with connect(engine) as conn:
        row = (await conn.execute(_GET, {"id": erasure_id})).mappings().one_or_none()
    if row is None:
        raise Rejected(404, "erasure_not_found", f"There is no erasure {erasure_id}.")
    return _view(row)


def _view(row: RowMapping) -> ErasureView:
    return ErasureView(**{**row, "held_by": row["held_by"] or ()})


# The last comparison of the whole storage; those since then compared parts of it.
_WHOLE = f"""coalesce((
    SELECT max(id) FROM reconciliations WHERE kind = 'reconcile' AND {DONE} AND part IS NULL AND since IS NULL
), 0)"""  # noqa: S608 constants of ours
_SELECT = f"""
SELECT erasures.id, receipt_id, scope, erasures.status, erasures.begun_at, erasures.ended_at, erasures.actor, reason,
    emails, files, bytes, webhooks, suspended, held_by, error_code, error, digest,
    (SELECT count(DISTINCT key) FROM reconciliation_findings WHERE kind = 'unclaimed' AND reconciliation_id >= {_WHOLE}) AS unclaimed
FROM erasures JOIN receipts ON receipts.id = receipt_id
"""  # noqa: S608 constants of ours
_ID = bindparam("id", type_=BigInteger())
_LIST = text(f"""
{_SELECT} WHERE :id IS NULL OR erasures.id < :id ORDER BY erasures.id DESC LIMIT :limit
""").bindparams(_ID, bindparam("limit", type_=BigInteger()))
_GET = text(f"{_SELECT} WHERE erasures.id = :id").bindparams(_ID)
