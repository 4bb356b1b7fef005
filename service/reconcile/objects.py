"""Compare the contents on record with the objects in the storage, one of 256 ranges at a time."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from service.errors import Permanent, Transient
from service.reconcile.calls import ask
from service.reconcile.contents import (
    PAGE,
    Content,
    contents_between,
    contents_since,
    known_contents,
    oldest_unfinished,
)
from service.reconcile.finding import Finding
from service.resources import Resources
from service.storage import objects
from service.storage.objects import Listed
from service.storage.port import ALL, RANGES

# A younger object may belong to an attempt that is under way.
UNCLAIMED_AFTER = timedelta(days=1)
# The clocks of storage and Postgres may differ by as much.
CLOCKS_DIFFER = timedelta(minutes=10)
# What is looked for before anything is fetched anew; of fewer, all may be gone indeed.
SAMPLE, MIN_SAMPLE = 24, 8
# Objects asked for at once.
CONCURRENT_REQUESTS = 16
END = "g"  # comes after all hexadecimal digits


@dataclass(slots=True)
class ObjectComparison:
    """What came of a look at some objects; the contents are those of what is missing or damaged."""

    objects: int = 0
    bytes: int = 0
    keys: list[str] = field(default_factory=list)  # where it was not a whole range
    findings: list[Finding] = field(default_factory=list)
    lost: list[Content] = field(default_factory=list)


async def is_unused(res: Resources) -> bool:
    """Tell whether nothing was ever stored: then a directory is not there, which else is taken for one not mounted."""
    if await ask(res, lambda conn: contents_between(conn, "", END, 1)):
        return False
    try:
        await require_storage(res)
    except Transient:
        if (res.settings.storage_url or "").startswith("file:"):
            return True
        raise
    return False


async def compare_range(res: Resources, prefix: str) -> ObjectComparison:
    """Compare all objects whose keys begin so with what is on record."""
    there = {each.key: each async for each in objects.listing(res.storage, prefix)}
    look = ObjectComparison(len(there), sum(each.size for each in there.values()))
    after = begin = prefix.removeprefix(ALL).removesuffix("/")
    claimed: set[str] = set()
    while True:
        page = await ask(res, lambda conn, after=after: contents_between(conn, after, begin + END))  # type: ignore[misc]
        doubtful = [each for each in page if each.key not in there or there[each.key].size != each.size]
        claimed.update(each.key for each in page)
        await check(res, doubtful, look)
        if len(page) < PAGE:
            break
        after = page[-1].sha256
    unclaimed = [each for key, each in there.items() if key not in claimed]
    if unclaimed:
        settled = await _settled_before(res)
        look.findings += await _unclaimed(res, [each for each in unclaimed if each.modified < settled])
    return look


async def compare_since(
    res: Resources, email_id: int, position: int, reported: set[str]
) -> tuple[ObjectComparison, tuple[int, int] | None]:
    """Compare the next files of these and later e-mails; return also where that ended, if there are more.

    A content that earlier pages found to be lost is `reported` already.
    """
    page = await ask(res, lambda conn: contents_since(conn, email_id, position))
    look = ObjectComparison()
    distinct = {each.sha256: each for each in page if each.sha256 not in reported}
    look.keys = [each.key for each in distinct.values()]
    await check(res, [*distinct.values()], look)
    reported.update(each.sha256 for each in look.lost)
    look.objects, look.bytes = len(distinct), sum(each.size for each in distinct.values())
    return look, (page[-1].email_id, page[-1].position) if len(page) == PAGE else None


async def check(res: Resources, contents: Sequence[Content], look: ObjectComparison) -> None:
    """Ask for each object whether it is there and has the right size; note what is not so."""
    slots = asyncio.Semaphore(CONCURRENT_REQUESTS)

    async def one(content: Content) -> Finding | None:
        async with slots:
            return await _check(res, content)

    found = await asyncio.gather(*map(one, contents))
    # Asked for an object, S3 says the same of one that is missing and of a bucket that is.
    if any(each is not None and each.kind == "object_missing" for each in found):
        await require_storage(res)
    for content, finding in zip(contents, found, strict=True):
        if finding:
            look.findings.append(finding)
            look.lost.append(content)


async def require_storage(res: Resources) -> None:
    """Raise Transient if it is not about single objects, but the storage is away as a whole."""
    await anext(objects.listing(res.storage, RANGES[0]), None)


async def require_most_objects(res: Resources) -> None:
    """Raise Permanent if of many contents on record most are gone: then it is another place that is looked at.

    To fetch all of them anew would fail the e-mails of what still lies in the right one.
    """
    places = [f"{place:02x}" for place in random.sample(range(256), SAMPLE)]
    found = await asyncio.gather(
        *(ask(res, lambda conn, place=place: contents_between(conn, place, END, 1)) for place in places)  # type: ignore[misc]
    )
    sample = {content.key: content for some in found for content in some}
    missing = [content for content in sample.values() if await _is_gone(res, content)]
    if len(sample) >= MIN_SAMPLE and 2 * len(missing) > len(sample):
        looked = (
            f"of {len(sample)} files that are on record and were looked for, {len(missing)} are not there"
        )
        doubt = "is STORAGE_URL the right one? If they are lost indeed, add --force to `holdfast reconcile --fix`."
        raise Permanent("storage_is_another", f"{looked}: {doubt}")


async def _check(res: Resources, content: Content) -> Finding | None:
    try:
        size = await objects.stat(res.storage, content.key)
    except Permanent:
        return finding_of("object_missing", content)
    return None if size == content.size else finding_of("object_damaged", content, size=size)


async def _is_gone(res: Resources, content: Content) -> bool:
    """Tell whether it is not there as it should be; what is there and may not be looked at is not gone."""
    try:
        return await _check(res, content) is not None
    except Transient:
        await require_storage(res)
        return False


def finding_of(kind: str, content: Content, **more: object) -> Finding:
    detail = {"sha256": content.sha256, "expected_size": content.size, **more}
    return Finding(kind, content.key, content.email_id, detail)


async def _settled_before(res: Resources) -> datetime:
    """Return the time before which no object can belong to an attempt that is under way.

    No e-mail that was received earlier has a job that is still to end. After a restore from an older dump, this tells
    of the objects that came after the dump.
    """
    now = datetime.now(UTC)
    oldest = await ask(res, oldest_unfinished)
    return max(now - UNCLAIMED_AFTER, min(oldest or now, now) - CLOCKS_DIFFER)


async def _unclaimed(res: Resources, candidates: Sequence[Listed]) -> list[Finding]:
    """Tell of old objects that no file has; an e-mail may have claimed one since."""
    hashes = {each.key.removeprefix(ALL).replace("/", ""): each for each in candidates}
    if not hashes:
        return []
    known = await ask(res, lambda conn: known_contents(conn, [*hashes]))
    return [
        Finding("unclaimed", each.key, detail={"size": each.size, "modified": each.modified.isoformat()})
        for sha256, each in hashes.items()
        if sha256 not in known
    ]
