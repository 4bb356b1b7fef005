"""Compare contents in Postgres with objects in the storage, in 256 ranges of keys."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from service.errors import Permanent, Transient
from service.postgres.contents import known_contents
from service.reconcile.contents import (
    PAGE,
    Content,
    contents_between,
    contents_since,
    oldest_unfinished,
)
from service.reconcile.finding import Finding
from service.resources import Resources
from service.storage import objects
from service.storage.interface import ALL, RANGES
from service.storage.objects import Listed
from service.storage.spool import hash_of

# A younger object may belong to a running attempt.
UNCLAIMED_AFTER = timedelta(days=1)
# The assumed maximum difference between the clocks of storage and Postgres.
MAX_CLOCK_SKEW = timedelta(minutes=10)
# Objects checked before a refetch; a smaller sample proves nothing.
SAMPLE, MIN_SAMPLE = 24, 8
CONCURRENT_REQUESTS = 16
END = "g"  # sorts after all hexadecimal digits


@dataclass(slots=True)
class ObjectComparison:
    """The result of comparing some objects; `lost` are the contents of missing or damaged objects."""

    objects: int = 0
    bytes: int = 0
    keys: list[str] = field(default_factory=list)  # only if the comparison was not by range
    findings: list[Finding] = field(default_factory=list)
    lost: list[Content] = field(default_factory=list)


async def is_unused(res: Resources) -> bool:
    """Tell whether nothing was ever stored. A missing directory is then normal, and not an unmounted disk."""
    if await res.insist(lambda conn: contents_between(conn, "", END, 1)):
        return False
    try:
        await require_storage(res)
    except Transient:
        if (res.settings.storage_url or "").startswith("file:"):
            return True
        raise
    return False


async def compare_range(res: Resources, prefix: str) -> ObjectComparison:
    """Compare all objects under a prefix with Postgres."""
    listed = {each.key: each async for each in objects.listing(res.storage, prefix)}
    result = ObjectComparison(len(listed), sum(each.size for each in listed.values()))
    after = begin = prefix.removeprefix(ALL).removesuffix("/")
    claimed: set[str] = set()
    while True:
        page = await res.insist(lambda conn, after=after: contents_between(conn, after, begin + END))  # type: ignore[misc]
        doubtful = [each for each in page if each.key not in listed or listed[each.key].size != each.size]
        claimed.update(each.key for each in page)
        await check(res, doubtful, result)
        if len(page) < PAGE:
            break
        after = page[-1].sha256
    unclaimed = [each for key, each in listed.items() if key not in claimed]
    if unclaimed:
        settled = await _settled_before(res)
        result.findings += await _unclaimed(res, [each for each in unclaimed if each.modified < settled])
    return result


async def compare_since(
    res: Resources, email_id: int, position: int, reported: set[str]
) -> tuple[ObjectComparison, tuple[int, int] | None]:
    """Compare the contents after this place; also return the last place if there are more.

    `reported` has the hashes of lost contents from earlier pages, and grows.
    """
    page = await res.insist(lambda conn: contents_since(conn, email_id, position))
    result = ObjectComparison()
    distinct = {each.sha256: each for each in page if each.sha256 not in reported}
    result.keys = [each.key for each in distinct.values()]
    await check(res, [*distinct.values()], result)
    reported.update(each.sha256 for each in result.lost)
    result.objects, result.bytes = len(distinct), sum(each.size for each in distinct.values())
    return result, (page[-1].email_id, page[-1].position) if len(page) == PAGE else None


async def check(res: Resources, contents: Sequence[Content], result: ObjectComparison) -> None:
    """Check existence and size of each object, and add findings to `result`."""
    slots = asyncio.Semaphore(CONCURRENT_REQUESTS)

    async def one(content: Content) -> Finding | None:
        async with slots:
            return await _check(res, content)

    found = await asyncio.gather(*map(one, contents))
    # S3 gives the same answer for a missing object and for a missing bucket.
    if any(each is not None and each.kind == "object_missing" for each in found):
        await require_storage(res)
    wrong = [(content, finding) for content, finding in zip(contents, found, strict=True) if finding]
    named = await still_named(res, [content for content, _ in wrong])
    for content, finding in wrong:
        if content.sha256 in named:
            result.findings.append(finding)
            result.lost.append(content)


async def still_named(res: Resources, contents: Sequence[Content]) -> set[str]:
    """Return the hashes that rows still name: e-mails and files may be erased or purged while objects are read."""
    hashes = [each.sha256 for each in contents]
    return await res.insist(lambda conn: known_contents(conn, hashes)) if hashes else set()


async def require_storage(res: Resources) -> None:
    """Raise Transient if the storage as a whole does not work."""
    await anext(objects.listing(res.storage, RANGES[0]), None)


async def require_most_objects(res: Resources) -> None:
    """Raise Permanent if most sampled objects are missing: STORAGE_URL probably names another storage.

    A refetch would then fail e-mails whose files are safe in the right storage.
    """
    places = [f"{place:02x}" for place in random.sample(range(256), SAMPLE)]
    found = await asyncio.gather(
        *(res.insist(lambda conn, place=place: contents_between(conn, place, END, 1)) for place in places)  # type: ignore[misc]
    )
    sample = {content.key: content for some in found for content in some}
    missing = [content for content in sample.values() if await _is_gone(res, content)]
    if len(sample) >= MIN_SAMPLE and 2 * len(missing) > len(sample):
        sampled = f"{len(missing)} of {len(sample)} sampled files are missing"
        doubt = (
            "is STORAGE_URL right? If the files are really lost, add --force to `holdfast reconcile --fix`."
        )
        raise Permanent("storage_is_another", f"{sampled}: {doubt}")


async def _check(res: Resources, content: Content) -> Finding | None:
    try:
        size = await objects.stat(res.storage, content.key)
    except Permanent:
        return finding_of("object_missing", content)
    return None if size == content.size else finding_of("object_damaged", content, size=size)


async def _is_gone(res: Resources, content: Content) -> bool:
    """Tell whether an object is missing or damaged; an object without read permission is neither."""
    try:
        return await _check(res, content) is not None
    except Transient:
        await require_storage(res)
        return False


def finding_of(kind: str, content: Content, **more: object) -> Finding:
    """Make a finding about the object of a content."""
    detail = {"sha256": content.sha256, "expected_size": content.size, **more}
    return Finding(kind, content.key, content.email_id, detail)


async def _settled_before(res: Resources) -> datetime:
    """Return the time before which no object can belong to a running attempt.

    All jobs of e-mails that were received earlier have ended. After a restore from an older dump, the objects that are
    newer than the dump are found by this.
    """
    now = datetime.now(UTC)
    oldest = await res.insist(oldest_unfinished)
    return max(now - UNCLAIMED_AFTER, min(oldest or now, now) - MAX_CLOCK_SKEW)


async def _unclaimed(res: Resources, candidates: Sequence[Listed]) -> list[Finding]:
    """Return findings for old objects that nothing names; read Postgres again, because an e-mail may have claimed one."""
    hashes = {hash_of(each.key): each for each in candidates}
    if not hashes:
        return []
    known = await res.insist(lambda conn: known_contents(conn, [*hashes]))
    return [
        Finding("unclaimed", each.key, detail={"size": each.size, "modified": each.modified.isoformat()})
        for sha256, each in hashes.items()
        if sha256 not in known
    ]
