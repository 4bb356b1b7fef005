"""Verify signed heads: their chain, their signatures, and that the storage has the same ones."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import Permanent
from service.evidence.findings import Finding, Report
from service.evidence.heads import document, fingerprint, keys_of
from service.evidence.keys import is_signed, public_of, signing_keys
from service.evidence.stamps import is_about
from service.resources import Resources
from service.storage import objects


async def verify_heads(res: Resources, report: Report) -> None:
    """Verify all heads; raises Transient where the storage is away."""
    # The storage first: a head that is made meanwhile is in Postgres before it is put.
    stored = {key for key in await objects.heads(res.storage) if key.endswith(".json")}
    heads, log = await res.run(_read)
    trusted = set(signing_keys(res.settings, log.private_key).trusted)
    kept_key = public_of(log.private_key)
    previous: Any = None
    for head in heads:
        if head.number != (1 if previous is None else previous.number + 1):
            report.add(Finding("head_missing", f"a head before head {head.number} is missing"))
        if problem := _problem_of(head, previous, log.log_id):
            report.add(Finding("head_changed", f"head {head.number}: {problem}"))
        if head.public_key not in trusted:
            _judge_key(head, previous, trusted, kept_key, report)
        if head.stamp is not None and not is_about(head.stamp, document(head.body, head.signature)):
            report.add(Finding("stamp_wrong", f"the time stamp of head {head.number} is not about it"))
        await _check_stored(res, head, stored, report)
        previous = head
    report.counts["heads"] = len(heads)
    _check_others(stored - {head.object_key for head in heads}, log.log_id, report)


async def _read(conn: AsyncConnection) -> tuple[Sequence[Any], Any]:
    return (await conn.execute(_HEADS)).all(), (await conn.execute(_LOG)).one()


def _problem_of(head: Any, previous: Any, log_id: str) -> str | None:  # noqa: ANN401 rows
    """Return the fault of a head, or None."""
    if not is_signed(head.public_key, head.body, head.signature):
        return "its signature is wrong"
    expected = {
        "at": head.at.astimezone(UTC).isoformat(),
        "key": head.public_key.hex(),
        "log": log_id,
        "number": head.number,
        "previous": None if previous is None else fingerprint(previous.body, previous.signature),
        "root": head.root.hex(),
        "size": head.size,
    }
    differing = [name for name, value in json.loads(head.body).items() if expected.get(name) != value]
    if differing:
        return f"it was signed with another {', '.join(sorted(differing))}"
    if head.object_key not in keys_of(log_id, head.number, fingerprint(head.body, head.signature)):
        return "it names another object"
    if previous is not None and (previous.size > head.size or previous.at > head.at):
        return "it is older or smaller than the head before it"
    return None


def _judge_key(head: Any, previous: Any, trusted: set[bytes], kept_key: bytes, report: Report) -> None:  # noqa: ANN401 rows
    """Accept the key that Postgres keeps only before the first head with a key of the settings."""
    if head.public_key != kept_key or (previous is not None and previous.public_key in trusted):
        report.add(Finding("head_key_unknown", f"head {head.number} is signed with another key"))
    else:
        report.count("heads_with_key_of_postgres")


async def _check_stored(res: Resources, head: Any, stored: set[str], report: Report) -> None:  # noqa: ANN401 a row
    if head.stored_at is None and head.object_key not in stored:
        report.count("heads_not_stored_yet")
        return
    try:
        content = await objects.read_head(res.storage, head.object_key)
    except Permanent:
        report.add(Finding("head_not_in_storage", f"the storage lacks head {head.number}"))
        return
    if content != document(head.body, head.signature):
        report.add(Finding("head_differs_in_storage", f"the storage has another head {head.number}"))


def _check_others(keys: set[str], log_id: str, report: Report) -> None:
    for key in sorted(keys):
        if key.startswith(f"heads/{log_id}/"):
            report.add(Finding("head_only_in_storage", f"Postgres lacks the head {key}"))
    others: Mapping[str, None] = {key.split("/")[1]: None for key in sorted(keys)}
    for other in others:
        if other != log_id:
            report.add(Finding("other_log", f"the storage has heads of the log {other}"))


_HEADS = text("SELECT * FROM evidence_heads ORDER BY number")
_LOG = text("SELECT log_id, private_key FROM evidence_log WHERE id = 1")
