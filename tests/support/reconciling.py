"""Runs of reconciliations and verifications, and damaged objects."""

import asyncio
import math
from datetime import datetime
from typing import Any

from aiohttp import web

from service.config.settings import Settings
from service.local.zendesk.stand_in import Zendesk
from service.queries.reconciliations import ReconciliationDetail, get_reconciliation
from service.reconcile import verify
from service.reconcile.run import RunOptions, reconcile
from service.resources import Resources
from tests.conftest import serving, working
from tests.support.files import PDF
from tests.support.places import Directory, InBucket, Place, key
from tests.support.s3 import Bucket, refuses
from tests.support.s3 import Fault as S3Fault

TXT = b"Dear all,\n" * 30
BAD = b"%PDF-1.7\n" + bytes(range(255, -1, -1)) * 400


async def store_two_files(settings: Settings, zendesk: Zendesk) -> int:
    """Send an e-mail with two files; wait until both are stored."""
    async with serving(settings, zendesk) as client, working(settings):
        files = [zendesk.add_file("a.pdf", PDF), zendesk.add_file("b.txt", TXT)]
        receipt = await client.send(zendesk.payload(attachments=files))
        await client.until(receipt["email_id"], "completed")
        return int(receipt["email_id"])


def downloads(zendesk: Zendesk) -> int:
    return sum(file.downloads for file in zendesk.state.files.values())


async def until_done(settings: Settings, zendesk: Zendesk, email_id: int) -> dict[str, Any]:
    """Run a worker until the e-mail is completed or failed."""
    async with serving(settings, zendesk) as client, working(settings):
        return await client.until(email_id, "completed", "failed")


async def compare(res: Resources, **options: Any) -> ReconciliationDetail:
    run_id = await reconcile(res, RunOptions("ada (tests)", **options), lambda _share, _seen: None)
    found = await get_reconciliation(res.engine, run_id)
    assert found.status == "done", found.error
    return found


async def verify_all(
    res: Resources, *, fix: bool = False, since: datetime | None = None
) -> ReconciliationDetail:
    run_id = await verify.begin(res, actor="ada (tests)", rate=1000, since=since, fix=fix)
    while await verify.step(res):
        pass
    found = await get_reconciliation(res.engine, run_id)
    assert found.status == "done", found
    return found


async def make_unreadable(place: Place, *contents: bytes) -> None:
    """Make objects unreadable: they exist, but every read fails."""
    names = tuple(map(key, contents))
    if isinstance(place, Directory):
        for name in names:
            await place.remove(name)
            await asyncio.to_thread((place.root / name).mkdir)  # root can read any file
        return
    assert isinstance(place, InBucket)

    async def archived(bucket: Bucket, request: web.Request) -> web.StreamResponse:
        # https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html
        answer = refuses(403, "InvalidObjectState") if request.path.endswith(names) else Bucket.forward
        return await answer(bucket, request)

    place.bucket.faults.append(S3Fault(archived, ("get",), times=math.inf))
