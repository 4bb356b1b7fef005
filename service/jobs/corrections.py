"""Corrected bodies of webhooks in quarantine: at most one is accepted, and the original stays as it came."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import literal, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.email_tables import ACCEPTED, NOT_REPLAYED, QuarantineCorrection, QuarantinedWebhook

# Headers that are true of the original body alone.
_OF_ORIGINAL = {
    *("content-encoding", "content-length", "content-md5", "digest", "content-digest"),
    *("x-zendesk-webhook-signature", "x-zendesk-webhook-signature-timestamp"),
}


@dataclass(frozen=True, slots=True)
class Correction:
    """A corrected body, and its author."""

    id: int
    corrected_by: str
    body: bytes

    def applied_to(self, webhook: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the request of a webhook with this body: nobody signed it."""
        headers = kept_headers(webhook["raw_headers"] or ())
        return {**webhook, "raw_body": self.body, "raw_headers": headers, "signature_hash": None}

    def told(self, original: bytes) -> str:
        """Describe the correction by the hashes of both bodies: the evidence log keeps this."""
        before, after = (hashlib.sha256(body).hexdigest() for body in (original, self.body))
        return f"corrected by {self.corrected_by}: sha256 {before} became {after}"


def kept_headers(headers: Iterable[Sequence[str]]) -> list[tuple[str, str]]:
    """Return the headers of a request that are also true of its corrected body."""
    return [(str(name), value) for name, value in headers if str(name).lower() not in _OF_ORIGINAL]


async def keep(conn: AsyncConnection, webhook_id: int, actor: str, body: bytes) -> Correction | None:
    """Keep a corrected body of a webhook that waits in quarantine, and return the accepted one.

    That is an earlier one, if there is one. Returns None if the webhook does not wait any more.
    """
    waits = select(QuarantinedWebhook.id, literal(actor), literal(body)).where(
        QuarantinedWebhook.id == webhook_id, text(NOT_REPLAYED)
    )
    columns = ["quarantine_id", "corrected_by", "body"]
    new = insert(QuarantineCorrection).from_select(columns, waits.with_for_update(key_share=True))
    await conn.execute(new.on_conflict_do_nothing())
    return await accepted(conn, webhook_id)


async def accepted(conn: AsyncConnection, webhook_id: int) -> Correction | None:
    """Return the accepted correction of a webhook in quarantine, if there is one."""
    row = QuarantineCorrection
    query = select(row.id, row.corrected_by, row.body).where(row.quarantine_id == webhook_id, text(ACCEPTED))
    found = (await conn.execute(query)).one_or_none()
    return Correction(*found) if found else None


async def refuse(conn: AsyncConnection, correction: Correction, code: str) -> None:
    """Note that no e-mail can be made of a correction: another one may follow."""
    row = QuarantineCorrection
    await conn.execute(update(row).where(row.id == correction.id, text(ACCEPTED)).values(error_code=code))
