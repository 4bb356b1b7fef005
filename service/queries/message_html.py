"""The HTML of a message as a page of its own: harmless, without other hosts, with our copies of its images."""

import asyncio
import base64
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from html import escape
from pathlib import Path
from urllib.parse import unquote

from service.errors import Permanent, Rejected, Transient
from service.formatting import one_line
from service.outbound.addresses import attachment_key
from service.queries.messages import StoredContent
from service.queries.views import AttachmentView
from service.storage.objects import Storage

# Larger HTML is not read: Zendesk's own limit of a comment is below it.
MAX_HTML_BYTES = 2 * 1024**2
# Of all images together; the others are not shown.
MAX_IMAGE_BYTES = 25 * 1024**2
WALL_SECONDS = 10.0

# What a browser shows without running anything; SVG is none of them.
_IMAGES = {"image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "image/avif", "image/x-icon"}
_PROGRAM = Path(__file__).with_name("html_sanitizer.py")
_POLICY = "default-src 'none'; img-src {sources}; style-src 'unsafe-inline'"
_PAGE = """\
<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{ margin: 16px; background: #fff; color: #1a1a1a; font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }}
img {{ max-width: 100%; height: auto; }}
table {{ max-width: 100%; }}
blockquote {{ margin: 0 0 0 8px; padding-left: 12px; border-left: 3px solid #ccc; }}
pre {{ white-space: pre-wrap; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""

# The new address of an image, made of its attachment; None where it is not shown.
Address = Callable[[AttachmentView], str | None]
_SANITIZERS = ThreadPoolExecutor(2, "sanitizer")  # each waits for a process


async def message_html(
    html: str,
    attachments: Sequence[AttachmentView],
    address: Address,
    *,
    title: str = "",
    sources: str = "data:",
) -> str:
    """Make a harmless page of a message's HTML.

    The images among these attachments get a new address, all others lose theirs. `sources` are those that the page's
    own policy allows for images. Raises Rejected (422) for HTML that is too large or takes too long to read.
    """
    mark = f"{secrets.token_hex(16)}.invalid"
    body = await asyncio.get_running_loop().run_in_executor(_SANITIZERS, _sanitize, html, mark)
    kept = {
        attachment_key(each.source_url): each
        for each in reversed(attachments)
        if each.status == "stored" and each.detected_type in _IMAGES
    }

    def replaced(found: re.Match[str]) -> str:
        attachment = kept.get(attachment_key(unquote(found[1])))
        new = attachment and address(attachment)
        return f' src="{escape(new)}"' if new else ""

    body = re.sub(rf' src="https://{mark}/([^"]*)"', replaced, body)
    policy = escape(_POLICY.format(sources=sources))
    return _PAGE.format(policy=policy, title=escape(one_line(title)), body=body)


async def embedded(
    storage: Storage, html: str, attachments: Sequence[AttachmentView], *, title: str = ""
) -> AsyncIterator[bytes]:
    """Yield the page in pieces, its images as `data:` addresses: a sandboxed page could not fetch them.

    Raises as `message_html` does, and Transient. An image that is missing or damaged is left out.
    """
    mark, left = secrets.token_hex(16), MAX_IMAGE_BYTES
    shown = {each.position: each for each in attachments}

    def place(attachment: AttachmentView) -> str | None:
        nonlocal left
        left -= attachment.size or 0
        return f"{mark}-{attachment.position}-" if left >= 0 else None

    page = await message_html(html, attachments, place, title=title)
    for number, piece in enumerate(re.split(f"{mark}-([0-9]+)-", page)):
        if number % 2 == 0:
            yield piece.encode()
            continue
        with suppress(Permanent):
            async for part in _as_data(storage, shown[int(piece)]):
                yield part


async def _as_data(storage: Storage, image: AttachmentView) -> AsyncIterator[bytes]:
    """Yield an image as a `data:` address, in pieces."""
    chunks = await StoredContent(image.object_key or "", image.sha256 or "", image.size or 0).open(storage)
    rest, beginning = b"", f"data:{image.detected_type};base64,".encode()
    async for chunk in chunks:
        rest += chunk
        whole = len(rest) - len(rest) % 3  # three bytes become four letters
        yield beginning + base64.b64encode(rest[:whole])
        rest, beginning = rest[whole:], b""
    yield base64.b64encode(rest)


def _sanitize(html: str, mark: str) -> str:
    """Run the sanitizer; blocks."""
    given = html.encode(errors="replace")
    if len(given) > MAX_HTML_BYTES:
        raise _too_large(f"of {len(given):,} bytes")
    told = json.dumps({"html": given.decode(), "mark": mark}).encode()
    # No settings: they hold secrets.
    variables = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    words = [sys.executable, "-I", str(_PROGRAM)]
    try:
        done = subprocess.run(  # noqa: S603 our own program
            words, input=told, env=variables, capture_output=True, timeout=WALL_SECONDS, check=True
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as exc:
        raise _too_large("so complex that reading it takes too long") from exc
    except OSError as exc:
        raise Transient("overloaded", f"No process could be started: {exc.strerror}.") from exc
    return done.stdout.decode()


def _too_large(why: str) -> Rejected:
    return Rejected(422, "message_too_large", f"The HTML is {why}; read the text or `record.json`.")
