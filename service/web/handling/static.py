"""The files that our pages load: read once, and served at an address that changes with the content."""

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
    version: str  # of the content's hash


@cache
def files() -> Mapping[str, StaticFile]:
    """Return all files by name; reads them from the disk the first time, and so belongs in a thread then."""
    return {path.name: _read(path) for path in _DIRECTORY.iterdir() if path.suffix in _TYPES}


def address(name: str) -> str:
    """Return where a file is served; for templates, which are filled in threads."""
    return f"/static/{name}?v={files()[name].version}"


@routes.get("/static/{name}", is_open=True)
async def serve(request: web.Request) -> web.Response:
    """Answer with a file; what is asked for by the hash of its content may be kept for ever."""
    file = (await asyncio.to_thread(files)).get(request.match_info["name"])
    if file is None:
        raise Rejected(404, "not_found", "There is no such file.")
    # While a new version is rolled out, an old process is asked for files of the new one.
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
