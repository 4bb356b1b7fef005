"""The demo's last words: what came of it, where the files are, what to do next."""

import os
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from service.local.board import Email
from service.local.play import Play
from service.local.stack import Stack
from service.local.up import try_it


def summarize(stack: Stack, play: Play) -> Text:
    """Return the summary; its commands can be copied, so do not wrap it."""
    text = Text("\n")
    for error in play.errors:
        text.append(f"  {error}\n", style="bold red")
    for email in play.emails:
        if email["processing_status"] == "failed":
            text.append(f"  e-mail {email['id']} failed: {email['processing_error']}\n", style="red")
    text.append(f"  {_counts(play)}\n\n", style="bold")
    places = _places(stack, play.emails)
    for name, value in [place for place in places if place[0] == "logs"] if play.errors else places:
        text.append(f"  {name:<10}", style="bold")
        text.append(f" {value}\n")
    return text


def _counts(play: Play) -> str:
    files = [file for email in play.emails for file in email["attachments"] if file["status"] == "stored"]
    objects = {file["object_key"] for file in files}
    megabytes = sum(file["size"] for file in files) / 1e6
    parts = [
        f"{play.count('completed')} e-mails completed, {play.count('failed')} failed",
        f"{len(files)} files ({megabytes:.1f} MB) in {len(objects)} objects",
        _number(sum(email["retry_count"] for email in play.emails), "retry", "retries"),
        _number(play.duplicates, "duplicate", "duplicates"),
    ]
    return " · ".join(parts)


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _places(stack: Stack, emails: Sequence[Email]) -> list[tuple[str, str]]:
    token, url, objects = stack.settings["API_TOKEN"], stack.url, stack.data_dir / "objects"
    files = [file for email in emails for file in email["attachments"] if file["object_key"]]
    example = [("", f"{files[0]['object_key']} is {files[0]['file_name']}")] if files else []
    return [
        ("dashboard", f"{url}/"),
        ("", f"sign in with the token {token}"),
        ("files", _short(objects)),
        *example,
        ("API", f"{url}/api/v1/emails"),
        ("", f"curl -H 'Authorization: Bearer {token}' {url}/api/v1/emails/1"),
        ("logs", f"{_short(stack.logs / 'web.log')}, {_short(stack.logs / 'worker.1.log')}"),
        ("try it", try_it("--env-file", _short(stack.data_dir / "env"))),
        ("stop", "Ctrl-C"),
    ]


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
