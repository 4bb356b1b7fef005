"""Messages of e-mails and their objects in storage, as a worker leaves them after it asked Zendesk."""

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg

from service.resources import Resources
from service.storage import objects
from service.storage.objects import StoredObject
from service.zendesk.messages import cut_text
from tests.support.rows import NOON, add

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360f8cf"
    "c0000003010100c9fe92ef0000000049454e44ae426082"
)
ORIGINAL = b"Message-ID: <one@customer.example>\r\nSubject: Invoice\r\n\r\nThe invoice is attached.\r\n"
IMAGE_URL = "https://acme.zendesk.com/attachments/token/{token}/?name=logo.png"


async def put(res: Resources, content: bytes, name: str | None = None) -> StoredObject:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 2**20):
            yield content[start : start + 2**20]

    return await objects.put(res.storage, chunks(), name)


async def add_message(
    database: asyncpg.Connection,
    res: Resources,
    email_id: int,
    text: str = "The invoice is attached.",
    html: str | None = None,
    original: bytes | None = None,
    **columns: Any,
) -> dict[str, Any]:
    """Add the message of an e-mail with its objects; return the comment's JSON."""
    comment = {
        "id": 9000 + email_id,
        "type": "Comment",
        "plain_body": text,
        "body": text,
        "html_body": html,
        "attachments": [],
    }
    record = await put(res, json.dumps(comment, ensure_ascii=False).encode(errors="backslashreplace"))
    row = {
        "email_id": email_id,
        "comment_id": str(comment["id"]),
        "direction": "inbound",
        "public": True,
        "subject": "Invoice",
        "from_address": "ann@customer.example",
        "from_name": "Ann",
        "to": [{"name": "Acme", "address": "support@acme.example"}],
        "cc": [{"name": None, "address": "bob@customer.example"}],
        "message_id": "<one@customer.example>",
        "sent_at": NOON,
        "text": cut_text(text),
        "text_size": len(text.encode(errors="replace")),
        "has_html": html is not None,
        "record_sha256": record.sha256,
        "record_key": record.key,
        "record_size": record.size,
    }
    if original is not None:
        stored = await put(res, original)
        row |= {"original": "stored", "original_sha256": stored.sha256}
        row |= {"original_key": stored.key, "original_size": stored.size}
    row |= columns
    row |= {name: json.dumps(row[name]) for name in ("to", "cc")}
    await add(database, "messages", **{f'"{name}"': value for name, value in row.items()})
    return comment


async def attach(
    database: asyncpg.Connection,
    res: Resources,
    email_id: int,
    position: int,
    content: bytes = PNG,
    name: str | None = "logo.png",
    **columns: Any,
) -> str:
    """Add a stored file to an e-mail; return its address at Zendesk."""
    stored = await put(res, content, name)
    url = IMAGE_URL.format(token=f"t{position}")
    row = {
        "email_id": email_id,
        "position": position,
        "source_url": url,
        "file_name": name,
        "status": "stored",
        "sha256": stored.sha256,
        "size": stored.size,
        "detected_type": stored.detected_type,
        "object_key": stored.key,
        **columns,
    }
    await add(database, "attachments", **row)
    return url


async def announce(database: asyncpg.Connection, email_id: int, body: bytes = b"{}", **columns: Any) -> int:
    """Add a further webhook about an e-mail; return its id."""
    row = {
        "email_id": email_id,
        "idempotency_key": f"further-{email_id}-{hash(body)}",
        "raw_body": body,
        "raw_headers": json.dumps([["X-Secret", "hunter2"], ["Content-Type", "application/json"]]),
        **columns,
    }
    return await add(database, "announcements", **row)
