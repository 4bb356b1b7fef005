"""Static files of our pages: read once, served at an address with a hash of the content."""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aiohttp import web

from service.errors import Rejected
from service.web.handling.routes import Routes

routes = Routes()

_DIRECTORY = Path(__file__).parents[1] / "static"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml; charset=utf-8",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True)
class StaticFile:
    content: bytes
    content_type: str
    version: str  # the start of the content's hash


@cache
def files() -> Mapping[str, StaticFile]:
    """Return all files by name. The first call reads the disk: make it in a thread."""
    return {path.name: _read(path) for path in _DIRECTORY.iterdir() if path.suffix in _TYPES}


def address(name: str) -> str:
    """Return the address of a file, for templates."""
    return f"/static/{name}?v={files()[name].version}"


@routes.get("/static/{name}", is_open=True)
async def serve(request: web.Request) -> web.Response:
    """Serve a file; browsers may keep it for ever at the address with its hash."""
    file = (await asyncio.to_thread(files)).get(request.match_info["name"])
    if file is None:
        raise Rejected(404, "not_found", "There is no such file.")
    # During a rollout, old processes get requests for files of the new version.
    is_same = request.query.get("v") == file.version
    return web.Response(
        body=file.content,
        headers={
            "Content-Type": file.content_type,
            "Cache-Control": "public, max-age=31536000, immutable" if is_same else "no-cache",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
        },
    )


def _read(path: Path) -> StaticFile:
    content = path.read_bytes()
    return StaticFile(content, _TYPES[path.suffix], hashlib.sha256(content).hexdigest()[:12])
