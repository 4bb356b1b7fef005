"""Compare e-mails in Postgres with their documents in the target, in steps by id."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import structlog

from service.errors import Permanent
from service.reconcile.calls import with_retries
from service.reconcile.expected import STEP, SyncState, digests, known_keys, states_from, states_of
from service.reconcile.finding import Finding
from service.resources import Resources
from service.targets.document import (
    SOURCE,
    comparable,
    digest,
    make_document,
    permanent_links,
    read_records,
    to_json,
)
from service.targets.merged import MERGED, keys_of_merged
from service.targets.mongodb import MAX_ID, MIN_ID, Collection, FoundDocument, copy_of
from service.targets.removed import DELETED, keys_of_removed, tell_again

# Rows and documents change while they are read, so each difference is confirmed after a pause.
CONFIRM_SECONDS = 0.2
# Documents that one step holds in memory. Beyond that, documents of e-mails are read by key, and a later run finds
# the rest.
MAX_DOCUMENTS = 10 * STEP
# Documents drawn before a removal; a smaller sample proves nothing.
SAMPLE, MIN_SAMPLE = 100, 8
# Differences per step with details: after an upgrade all documents may differ, in the same field.
MAX_DETAILED = 20

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TargetDocument:
    """The compared part of a document in the target."""

    found_key: Any
    version: Any
    is_ours: bool
    digest: str
    email_id: Any
    is_merged: bool = False  # it says that its e-mail became part of another one
    is_deleted: bool = False  # it says that its e-mail was removed

    @property
    def key(self) -> str:
        return self.found_key if isinstance(self.found_key, str) else repr(self.found_key)


@dataclass(slots=True)
class Comparison:
    """The result of one step; `wrong` has the states of differing e-mails by the keys of their findings."""

    end: int = 0
    emails: int = 0
    documents: int = 0
    unfinished: int = 0
    findings: list[Finding] = field(default_factory=list)
    wrong: dict[str, SyncState] = field(default_factory=dict)


async def compare_step(
    res: Resources, target: Collection, first: int, last: int, *, is_whole: bool
) -> Comparison:
    """Compare the next e-mails from `first` on with the documents of the same ids.

    With `is_whole`, also read documents with ids below the first e-mail and above the last one.
    """
    states = await res.insist(lambda conn: states_from(conn, first, last))
    end = states[-1].email_id + 1 if len(states) == STEP else last
    span = (MIN_ID if is_whole and first == 0 else first, MAX_ID if is_whole and end == last else end)
    documents = await with_retries(lambda: _read(res, target.between(*span)))
    step = Comparison(end, len(states), len(documents))
    step.unfinished = sum(state.is_pending for state in states)
    settled = [state.email_id for state in states if not state.is_pending]
    expected = await res.insist(lambda conn: digests(conn, settled, res.settings)) if settled else {}
    doubtful = [state for state in states if _judge(state, documents.get(state.key), expected)]
    own = {state.key for state in states}
    unknown = [document for key, document in documents.items() if key not in own]
    if doubtful or unknown:
        await asyncio.sleep(CONFIRM_SECONDS)
    if doubtful:
        await _confirm(res, target, [state.email_id for state in doubtful], step)
    step.findings += await find_without_email(res, unknown)
    return step


async def compare_without_email_id(res: Resources, target: Collection) -> Comparison:
    """Find documents without a numeric email_id, which no range of ids contains."""
    documents = await with_retries(lambda: _read(res, target.without_email_id()))
    return Comparison(documents=len(documents), findings=await find_without_email(res, [*documents.values()]))


async def find_without_email(res: Resources, documents: Sequence[TargetDocument]) -> list[Finding]:
    """Return a finding for each document whose key belongs to no e-mail.

    An old document of a removed e-mail is no finding: its replacement becomes due again.
    """
    keys = [
        document.key
        for document in documents
        if isinstance(document.found_key, str) and "\0" not in document.key
    ]
    known = await res.insist(lambda conn: known_keys(conn, keys)) if keys else set()
    merged = await res.insist(lambda conn: keys_of_merged(conn, keys)) if keys else {}
    # Until the targets are told, they have the document of the e-mail as it was.
    known |= {
        each.key for each in documents if each.key in merged and (each.is_merged or not merged[each.key])
    }
    known |= await _known_as_removed(res, documents, keys) if keys else set()
    return [
        Finding(
            "extra" if document.is_ours else "foreign",
            document.key,
            detail=_detail(document),
            found_key=document.found_key,
        )
        for document in documents
        if not isinstance(document.found_key, str) or document.key not in known
    ]


async def _known_as_removed(
    res: Resources, documents: Sequence[TargetDocument], keys: Sequence[str]
) -> set[str]:
    """Return the keys of removed e-mails. Where one of them has an old document again, the target is told once more."""
    removed = await res.insist(lambda conn: keys_of_removed(conn, keys))
    old = [each.key for each in documents if removed.get(each.key) and each.is_ours and not each.is_deleted]
    if old:
        await res.insist(lambda conn: tell_again(conn, old))
        log.warning("old_documents_of_removed_emails", documents=len(old))
    return {*removed}


async def require_own_collection(res: Resources, target: Collection) -> None:
    """Raise Permanent if most of our documents have no e-mail: the collection or the database is probably another one.

    A removal would then empty the collection of another installation.
    """
    drawn = await with_retries(lambda: target.sample(SAMPLE))
    keys = [str(each["_id"]) for each in drawn if each.get("source") == SOURCE]
    fit = [key for key in keys if "\0" not in key]
    known = await res.insist(lambda conn: known_keys(conn, fit))
    known |= (await res.insist(lambda conn: keys_of_merged(conn, fit))).keys()
    known |= (await res.insist(lambda conn: keys_of_removed(conn, fit))).keys()
    if len(keys) >= MIN_SAMPLE and 2 * len(known) < len(keys):
        sampled = f"{len(keys) - len(known)} of {len(keys)} sampled documents of Holdfast have no e-mail"
        doubt = "do SYNC_URL and DATABASE_URL belong together?"
        forced = "To remove them anyway, add --force to `holdfast reconcile --fix`."
        raise Permanent("target_is_another", f"{sampled}: {doubt} {forced}")


async def _confirm(res: Resources, target: Collection, email_ids: Sequence[int], step: Comparison) -> None:
    """Add a finding for each e-mail that still differs, unless its job or sync ran during the reads."""
    before = await res.insist(lambda conn: states_of(conn, email_ids))
    expected = await res.insist(lambda conn: digests(conn, email_ids, res.settings))
    documents = await with_retries(lambda: _read(res, target.with_keys([state.key for state in before])))
    after = {state.email_id: state for state in await res.insist(lambda conn: states_of(conn, email_ids))}
    for state in before:
        document = documents.get(state.key)
        if state == after.get(state.email_id) and (kind := _judge(state, document, expected)):
            detail: dict[str, Any] = {
                "version": state.version,
                "there": _detail(document) if document else None,
            }
            if kind == "different" and sum(each.kind == kind for each in step.findings) < MAX_DETAILED:
                detail |= await _differing_fields(res, target, state)
            step.findings.append(Finding(kind, state.key, state.email_id, detail, found_key=state.key))
            step.wrong[state.key] = state


def _judge(state: SyncState, document: TargetDocument | None, expected: Mapping[int, str]) -> str | None:
    """Return the kind of the difference between an e-mail and its document; None if there is none."""
    if state.is_pending:
        return None
    if document is not None and _is_later(document.version, state.version):
        return "ahead"
    # After receiver_ahead the newer document may already be removed, by a repair that did not finish.
    is_known = state.status == "failed" and state.error_code != "receiver_ahead"
    if is_known or state.email_id not in expected:  # the second: a retry has begun since
        return None
    if document is None:
        return "missing"
    return None if document.digest == expected[state.email_id] else "different"


def _is_later(version: Any, than: int) -> bool:  # noqa: ANN401 any BSON type
    if hasattr(version, "to_decimal"):  # BSON's Decimal128
        version = version.to_decimal()
    try:
        return not isinstance(version, bool | str) and bool(version > than)
    except (TypeError, ArithmeticError):
        return False


async def _read(
    res: Resources, batches: AsyncGenerator[Sequence[FoundDocument], None]
) -> dict[str, TargetDocument]:
    """Read documents and keep only their compared parts; a thread hashes them, because they may be large."""
    has_links = res.settings.sync_links == "api"
    found: dict[str, TargetDocument] = {}
    async with aclosing(batches):
        async for batch in batches:
            found.update({each.key: each for each in await asyncio.to_thread(_summarize, batch, has_links)})
            if len(found) >= MAX_DOCUMENTS:
                break
    return found


def _summarize(documents: Sequence[FoundDocument], has_links: bool) -> list[TargetDocument]:  # noqa: FBT001 for to_thread
    return [
        TargetDocument(
            document["_id"],
            document.get("version"),
            document.get("source") == SOURCE,
            digest({name: value for name, value in document.items() if name != "_id"}, with_links=has_links),
            document.get("email_id"),
            document.get("status") == MERGED,
            document.get("status") == DELETED,
        )
        for document in documents
    ]


def _detail(document: TargetDocument) -> dict[str, object]:
    return {"version": str(document.version)[:100], "email_id": str(document.email_id)[:100]}


async def _differing_fields(res: Resources, target: Collection, state: SyncState) -> Mapping[str, Any]:
    """Return the names of the differing fields and a copy of the document; nothing if either side is gone."""
    records = await res.insist(lambda conn: read_records(conn, [state.email_id]))
    found = await with_retries(lambda: _one(target, state.key))
    record = records.get(state.email_id)
    if record is None or found is None:
        return {}
    public_url = res.settings.public_url
    made = make_document(record, permanent_links(record, public_url), public_url).content
    has_links = res.settings.sync_links == "api"
    ours, theirs = (comparable(each, with_links=has_links) for each in (made, found))
    names = sorted(
        name
        for name in {*ours, *theirs} - {"_id"}
        if to_json(ours.get(name), sort_keys=True) != to_json(theirs.get(name), sort_keys=True)
    )
    whose = {} if found.get("source") == SOURCE else {"is_ours": False}
    return {"fields": names, "document": copy_of(found), **whose}


async def _one(target: Collection, key: str) -> FoundDocument | None:
    async with aclosing(target.with_keys([key])) as batches:
        async for some in batches:
            return some[0] if some else None
    return None
