"""Headers under which a stranger's file is served: a browser saves it, and runs nothing of it."""

import re
from urllib.parse import quote

from service.formatting import printable
from service.queries.views import AttachmentView

LONGEST_NAME = 150


def content_headers(attachment: AttachmentView) -> dict[str, str]:
    """Make the headers; the name is never a path and never a header of its own."""
    name = safe_name(attachment)
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    return {
        "Content-Type": attachment.detected_type or "application/octet-stream",
        "Content-Length": str(attachment.size),
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-store",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


def redirect_headers(address: str) -> dict[str, str]:
    """Lead to a signed address, which is a secret: nobody keeps the answer, and no referrer tells where one came from."""
    return {"Location": address, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


def safe_name(attachment: AttachmentView) -> str:
    """Make a name of the sender's, which is no path, hides nothing, and is not too long."""
    name = re.sub(r"[/\\]", "_", printable(attachment.file_name or "", "_"))[-LONGEST_NAME:].strip(". ")
    return name or f"attachment-{attachment.position}"
