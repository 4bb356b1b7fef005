"""An S3 server for the tests: moto in its own process, and a proxy with faults in front of it."""

import asyncio
import hmac
import re
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from signal import SIGTERM
from typing import Protocol
from urllib.parse import quote
from uuid import uuid4
from xml.etree import ElementTree as ET

from aiohttp import ClientSession, web
from multidict import CIMultiDict, CIMultiDictProxy

from service.local.launch import running

PRIVATE = "private-words-of-the-server"
ACCESS_KEY = "key"
SECRET = "hidden-from-everybody"
# moto shows a private object to any named user
SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=tests/20260101/us-east-1/s3/aws4_request"}
BODY = 4096
CHECKSUM = "x-amz-checksum-sha256"
HOP_BY_HOP = ("Connection", "Transfer-Encoding", "Content-Length", "Date", "Server")


class Answer(Protocol):
    __name__: str

    async def __call__(self, bucket: "Bucket", request: web.Request, /) -> web.StreamResponse: ...


@contextmanager
def s3(directory: Path) -> Iterator[str]:
    """Run an empty S3; yield its URL. Start it from the main thread."""

    def url() -> str:
        found = re.search(r"Running on (http://127\.0\.0\.1:\d+)", (directory / "server.log").read_text())
        return found[1] if found else ""

    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with running(command, directory, stop=SIGTERM, is_ready=lambda _: bool(url())):
        yield url()


@dataclass
class Fault:
    """A response for some requests of these kinds: after the first `skip` requests, `times` requests get it."""

    answer: Answer
    kinds: tuple[str, ...] = ()
    skip: int = 0
    times: float = 1

    def __str__(self) -> str:
        return "-".join([self.answer.__name__, *self.kinds])

    def befalls(self, kind: str) -> bool:
        if self.kinds and kind not in self.kinds:
            return False
        self.skip -= 1
        if self.skip >= 0 or self.times <= 0:
            return False
        self.times -= 1
        return True


@dataclass
class Bucket:
    """A bucket: `url` leads through the proxy, the methods go past it."""

    server: str
    name: str
    session: ClientSession
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  # the kinds of the requests
    headers: list[CIMultiDictProxy[str]] = field(default_factory=list)  # the headers of the requests
    bodies: list[bytes] = field(default_factory=list)  # their bodies, of large ones only the beginning
    summed: set[str] = field(default_factory=set)  # multipart uploads with announced checksums
    frozen: asyncio.Event = field(default_factory=asyncio.Event)
    thawed: asyncio.Event = field(default_factory=asyncio.Event)

    async def objects(self) -> dict[str, bytes]:
        """Read all objects, without the heads of the evidence log."""
        names = [name for name in await self._list("list-type=2", "Key") if "heads/" not in name]
        return {name: await self._ask("GET", f"/{name}") for name in names}

    async def unfinished(self) -> list[str]:
        """List the multipart uploads whose parts the bucket keeps."""
        return await self._list("uploads", "UploadId")

    async def place(self, name: str, content: bytes) -> None:
        await self._ask("PUT", f"/{name}", content)

    async def remove(self, name: str) -> None:
        await self._ask("DELETE", f"/{name}")

    async def answer(self, request: web.Request) -> web.StreamResponse:
        kind = kind_of(request)
        self.requests.append(kind)
        self.headers.append(request.headers)
        self.bodies.append(b"")
        place = len(self.bodies) - 1
        fault = next((fault for fault in self.faults if fault.befalls(kind)), None)
        answer = await (fault.answer(self, request) if fault else self.forward(request))
        self.bodies[place] = (request._read_bytes or b"")[:BODY]
        return answer

    async def forward(self, request: web.Request) -> web.Response:
        """Forward a request to moto. Check the signature and the checksum here, since moto does not."""
        body = await request.read()
        if fault := amiss(request.headers, body):
            return refusal(400, fault)
        if "X-Amz-Signature" in request.query and not is_good_address(request):
            return refusal(403, "AccessDenied")
        upload = request.query.get("uploadId")
        if body and upload in self.summed and body.count(b"<Part>") > body.count(b"<ChecksumSHA256>"):
            return refusal(
                400, "InvalidRequest"
            )  # S3 requires the checksums of all parts again; moto does not
        async with self.session.request(
            request.method, f"{self.server}{request.path_qs}", data=BytesIO(body), headers=request.headers
        ) as answer:
            headers = CIMultiDict(answer.headers)
            for name in HOP_BY_HOP:
                headers.popall(name, None)
            if request.method == "HEAD":
                headers["Content-Length"] = answer.headers.get("Content-Length", "0")
            content = await answer.read()
            if "x-amz-checksum-algorithm" in request.headers:
                self.summed.update(re.findall("<UploadId>(.+?)<", content.decode()))
            if upload and CHECKSUM in request.headers:
                headers[CHECKSUM] = request.headers[CHECKSUM]  # the response of S3
            return web.Response(status=answer.status, headers=headers, body=content)

    async def _list(self, query: str, tag: str) -> list[str]:
        tree = ET.fromstring(await self._ask("GET", f"?{query}"))
        return [each.text or "" for each in tree.iter() if each.tag.endswith(f"}}{tag}")]

    async def _ask(self, method: str, rest: str, content: bytes = b"") -> bytes:
        url = f"{self.server}/{self.name}{rest}"
        async with self.session.request(method, url, data=BytesIO(content), headers=SIGNED) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.read()


@asynccontextmanager
async def proxied(server: str) -> AsyncIterator[Bucket]:
    """Make a bucket with a unique name, and a proxy in front of it."""
    app = web.Application(client_max_size=64 * 1024**2)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, auto_decompress=False)
    async with ClientSession(auto_decompress=False) as session:
        bucket = Bucket(server, f"bucket-{uuid4().hex}", session)
        app.router.add_route("*", "/{path:.*}", bucket.answer)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        bucket.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            await bucket._ask("PUT", "")
            yield bucket
        finally:
            bucket.thawed.set()
            await runner.cleanup()


def kind_of(request: web.Request) -> str:
    """Return the kind of a request: get, head, put, initiate, part, complete, abort."""
    if "uploads" in request.query:
        return "initiate"
    if "uploadId" in request.query:
        return {"PUT": "part", "POST": "complete", "DELETE": "abort"}[request.method]
    return request.method.lower()


def amiss(headers: Mapping[str, str], body: bytes) -> str | None:
    """Return the error code of S3 for a body that does not match its headers, or None."""
    digest = sha256(body)
    # https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    if body and headers["x-amz-content-sha256"] not in {digest.hexdigest(), "UNSIGNED-PAYLOAD"}:
        return "XAmzContentSHA256Mismatch"
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
    told = headers.get(CHECKSUM)
    return "BadDigest" if told and told != b64encode(digest.digest()).decode() else None


def is_good_address(request: web.Request) -> bool:
    """Check a signed address as S3 does: signature, method and expiry. moto does not check them.

    https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
    """
    asked = {name: value for name, value in request.query.items() if name != "X-Amz-Signature"}
    assert asked["X-Amz-SignedHeaders"] == "host"
    time, (_, *scope) = asked["X-Amz-Date"], asked["X-Amz-Credential"].split("/")
    query = "&".join(f"{quote(name, safe='')}={quote(asked[name], safe='')}" for name in sorted(asked))
    lines = (
        *(request.method, request.rel_url.raw_path, query, f"host:{request.host}", "", "host"),
        "UNSIGNED-PAYLOAD",
    )
    digest = sha256("\n".join(lines).encode()).hexdigest()
    key = f"AWS4{SECRET}".encode()
    for part in (*scope, f"AWS4-HMAC-SHA256\n{time}\n{'/'.join(scope)}\n{digest}"):
        key = hmac.digest(key, part.encode(), "sha256")
    began = datetime.strptime(time, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    is_late = datetime.now(UTC) > began + timedelta(seconds=int(asked["X-Amz-Expires"]))
    return key.hex() == request.query["X-Amz-Signature"] and not is_late


def refusal(status: int, code: str) -> web.Response:
    # https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    text = f'<?xml version="1.0"?>\n<Error>\n<Code>{code}</Code><Message>{PRIVATE}</Message></Error>'
    return web.Response(status=status, content_type="application/xml", text=text)


def refuses(status: int, code: str) -> Answer:
    async def answer(_: Bucket, request: web.Request) -> web.StreamResponse:
        await request.read()
        return refusal(status, code)

    answer.__name__ = code
    return answer


async def resets(_: Bucket, request: web.Request) -> web.StreamResponse:
    """Reset the connection, in the middle of the body if there is one."""
    await request.content.read(64 * 1024)
    assert request.transport
    request.transport.abort()
    return web.Response()


async def breaks_off(bucket: Bucket, request: web.Request) -> web.StreamResponse:
    """Forward the request, and break the connection in the middle of the response."""
    whole = await bucket.forward(request)
    assert isinstance(whole.body, bytes)
    answer = web.StreamResponse(status=whole.status, headers=whole.headers)
    answer.content_length = len(whole.body)
    await answer.prepare(request)
    await answer.write(whole.body[: len(whole.body) // 2])
    return await resets(bucket, request)


async def freezes(bucket: Bucket, request: web.Request) -> web.StreamResponse:
    """Forward the request, but only after the freeze ends."""
    await request.read()
    bucket.frozen.set()
    await bucket.thawed.wait()
    return await bucket.forward(request)


async def misnames(bucket: Bucket, request: web.Request) -> web.StreamResponse:
    """Forward the request, and return a wrong ETag."""
    answer = await bucket.forward(request)
    answer.headers["ETag"] = '"00000000000000000000000000000000"'
    return answer


async def damages(bucket: Bucket, request: web.Request) -> web.StreamResponse:
    """Forward the body with one byte changed."""
    body = await request.read()
    request._read_bytes = bytes([body[0] ^ 1]) + body[1:]
    return await bucket.forward(request)


async def lies(_: Bucket, request: web.Request) -> web.StreamResponse:
    """Answer with success, and store nothing."""
    await request.read()
    text = "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
    return web.Response(headers={"ETag": '"0123456789abcdef0123456789abcdef"'}, text=text)
