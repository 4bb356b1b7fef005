"""Prepare a file of signed webhooks, all different, as complete HTTP requests of equal size."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.testbed import SECRET
from service.local.zendesk.sender import sign_headers
from service.local.zendesk.stand_in import Zendesk

BODY_BYTES = 1500
_FIRST_TICKET = 1_000_000

# Returns the address of the file for the e-mail with this number.
Address = Callable[[int], str]


@dataclass(frozen=True)
class Webhooks:
    """A file of requests; request number n is the `size` bytes at n * size."""

    path: Path
    count: int
    size: int

    def read(self, first: int, count: int) -> list[bytes]:
        with self.path.open("rb") as file:
            file.seek(first * self.size)
            return [file.read(self.size) for _ in range(count)]


def write_webhooks(path: Path, numbers: range, address: Address, *, file_bytes: int = 100_000) -> Webhooks:
    """Write one webhook for each number, with the file at that number's address."""
    zendesk = Zendesk(secret=SECRET)
    sizes = set()
    with path.open("wb") as file:
        for number in numbers:
            request = _request(zendesk, number, address(number), file_bytes)
            sizes.add(len(request))
            file.write(request)
    (size,) = sizes
    return Webhooks(path, len(numbers), size)


def _request(zendesk: Zendesk, number: int, url: str, file_bytes: int) -> bytes:
    payload: dict[str, Any] = zendesk.payload(ticket_id=_FIRST_TICKET + number, body_text="")
    payload["attachments"] = [
        {
            "url": url,
            "filename": f"invoice-{number:07}.bin",
            "content_type": "application/octet-stream",
            "size": file_bytes,
        }
    ]
    text = "Dear team, please find the files attached. "
    missing = BODY_BYTES - len(json.dumps(payload))
    payload["body_text"] = (text * (missing // len(text) + 1))[:missing]
    body = json.dumps(payload).encode()
    headers = {"Host": "holdfast.example", **sign_headers(body, SECRET), "Content-Length": str(len(body))}
    lines = [
        "POST /webhooks/zendesk HTTP/1.1",
        *(f"{name}: {value}" for name, value in headers.items()),
        "\r\n",
    ]
    return "\r\n".join(lines).encode() + body
