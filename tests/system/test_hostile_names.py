"""File names that mean no good, the whole way: bytes are stored and served, and the name is never a path or a header."""

import asyncio
import re
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from arq.worker import Worker

from service.local.zendesk.stand_in import Zendesk
from tests.conftest import API_TOKEN, Server

NAMES = [
    *(
        "../../holdfast-escaped",
        "..\\..\\holdfast-escaped",
        "/tmp/holdfast-escaped",
        "//host/holdfast-escaped",
        "file:///tmp/holdfast-escaped",
        "~/holdfast-escaped",
        "a/../../holdfast-escaped",
    ),
    *(
        "C:\\holdfast-escaped",
        "C:holdfast-escaped",
        "\\\\host\\share\\holdfast-escaped",
        "\\\\?\\C:\\holdfast-escaped",
        "holdfast-escaped.txt::$DATA",
        "holdfast-escaped:stream",
    ),
    *(
        "..%2f..%2fholdfast-escaped",
        "%2e%2e/holdfast-escaped",
        "..%c0%afholdfast-escaped",
        "\u2025/holdfast-escaped",
        "..\u2215holdfast-escaped",
        "..\uff0fholdfast-escaped",
    ),
    *(
        "a\0.pdf",
        "\0",
        "../\0/holdfast-escaped",
        "a\n.pdf",
        "a\rb.pdf",
        "a\r\nSet-Cookie: a=b",
        "a\r\n\r\n<script>",
        "a\n b.pdf",
    ),
    *(
        "a\u0085b",
        "a\u2028b",
        "a\x0bb",
        "a\x1b[31mb",
        "a\x7fb",
        "%0d%0aSet-Cookie:%20a=b",
        "%00.pdf",
        "a\\r\\nX: b",
    ),
    *(
        "x" * 10_000,
        "x" * 10_000 + ".pdf",
        "." * 10_000,
        "\U0001f4ce" * 2500,
        "/" * 10_000,
        "../" * 3000 + "holdfast-escaped",
    ),
    *(
        "invoice\u202efdp.exe",
        "\u202e\u202d\u2066\u2069",
        "\u200fa\u200e.pdf",
        "a\u061c.pdf",
        "a\u200b.pdf",
        "\ufeffa.pdf",
    ),
    *(
        "\ud800.pdf",
        "\udfff\ud800",
        "a\udc80b",
        ".",
        "..",
        "...",
        " ",
        "   ",
        ". . .",
        "\t",
        "\u00a0",
        "\u3000",
        ".htaccess",
    ),
    *(
        "CON",
        "nul.txt",
        "COM1",
        "LPT9.pdf",
        "aux.",
        "PRN ",
        "desktop.ini",
        "a.lnk",
        "a.pdf.exe",
        "a.pdf ",
        "a.pdf.",
        "-rf",
    ),
    *(
        "\U0001f4ce.pdf",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467.png",
        "Gr\u00fc\u00dfe \u20ac.pdf",
        "\u0645\u0631\u062d.pdf",
    ),
    *(
        'a"b.pdf',
        'a"; filename="evil.exe',
        "a'b.pdf",
        "a;b.pdf",
        "a=b.pdf",
        "a,b.pdf",
        "UTF-8''evil.exe",
        'a\\"b.pdf',
        '"',
        "'",
    ),
    *(
        "=?utf-8?B?Li4vLi4vZXZpbA==?=",
        "${jndi:ldap://x}",
        "$(id)",
        "`id`",
        "a|b",
        "a&b",
        "<img src=x>",
        "{{7*7}}",
        "%s%n",
    ),
    *("", "same.pdf", "same.pdf", "SAME.PDF"),
]
HEADERS = {
    *(
        "Content-Type",
        "Content-Length",
        "Content-Disposition",
        "Content-Security-Policy",
        "X-Content-Type-Options",
    ),
    *("Cache-Control", "Cross-Origin-Resource-Policy", "Date", "Referrer-Policy", "Server"),
}


def content_of(position: int) -> bytes:
    return b"the bytes of file %d" % position


async def captured(client: Server, zendesk: Zendesk, source: str) -> dict[str, Any]:
    """Let an e-mail with a file of each name come in, listed in the webhook or at its comment."""
    urls = [zendesk.add_file("plain.bin", content_of(position)) for position in range(len(NAMES))]
    payload = zendesk.payload(attachments=urls)
    for file, name in zip(payload["attachments"], NAMES, strict=True):
        file["filename"] = file["file_name"] = name
    if source == "comment":
        comment_id = zendesk.add_comment(77)
        zendesk.state.comments["77"][0]["attachments"] = payload["attachments"]
        payload = {"ticket_id": 77, "comment_id": comment_id}
    receipt = await client.send(payload)
    return await client.until(receipt["email_id"], "completed", "failed")


@pytest.mark.parametrize("source", ["webhook", "comment"])
async def test_a_file_of_any_name_is_stored_under_a_key_and_served_as_a_download(
    source: str, client: Server, worker: Worker, zendesk: Zendesk, tmp_path: Path
) -> None:
    email = await captured(client, zendesk, source)

    assert [file["error"] for file in email["attachments"]] == [None] * len(NAMES)
    assert email["processing_status"] == "completed"
    for position, attachment in enumerate(email["attachments"]):
        headers, body = await download(client, attachment["href"])
        assert body == content_of(position)
        assert sorted(name for name, _ in headers) == sorted(HEADERS), NAMES[position]
        assert_harmless(dict(headers)["Content-Disposition"])
    stored = await asyncio.to_thread(files_below, tmp_path)
    records = 1 if email["message"]["source"] == "zendesk" else 0
    assert len(stored) == len(NAMES) + records
    assert all(re.fullmatch(r"objects/sha256/[0-9a-f]{2}/[0-9a-f]{62}", path) for path in stored)
    assert not await asyncio.to_thread(escaped, tmp_path / "objects")


async def download(client: Server, path: str) -> tuple[list[tuple[str, str]], bytes]:
    token = {"Authorization": f"Bearer {API_TOKEN}"}
    async with client.session.get(client.url + path, headers=token) as response:
        assert response.status == 200
        raw = [(name.decode(), value.decode("latin-1")) for name, value in response.raw_headers]
        return raw, await response.read()


def assert_harmless(disposition: str) -> None:
    """Whichever of its two names a browser takes: it saves, in the one place for that, what looks as it is."""
    form = r'attachment; filename="([A-Za-z0-9._ -]+)"; filename\*=UTF-8\'\'([A-Za-z0-9._~%-]+)'
    match = re.fullmatch(form, disposition)
    assert match, disposition
    for name in (match[1], unquote(match[2], errors="strict")):
        assert 0 < len(name) <= 150
        assert not re.search(
            r"[\x00-\x1f\x7f-\x9f/\\\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", name
        )
        assert name not in (".", "..")
        assert not name.startswith((".", " "))
        assert not name.endswith((".", " "))
    message = EmailMessage()
    message["Content-Disposition"] = disposition
    assert message.get_content_disposition() == "attachment"


def files_below(directory: Path) -> list[str]:
    found = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return [str(path) for path in found if "heads" not in path.parts]  # of the evidence log


def escaped(root: Path) -> list[Path]:
    """List the files at which a name would point if it were a path, seen from each of our directories."""
    starts = (root, root / ".spool", root / "sha256" / "ab", Path.cwd())
    names = [name for name in NAMES if "holdfast-escaped" in name and "\0" not in name and len(name) < 1000]
    return [path for start in starts for name in names if (path := start / name).exists()]
