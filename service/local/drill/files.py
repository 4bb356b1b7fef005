"""Compare the files that were served with those on record, and with the objects in storage."""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from service.local.drill.findings import Findings, Row
from service.local.drill.ledger import Ledger, Webhook

# A temporary file may be as old as the longest upload; all of those here were over long ago.
GRACE_SECONDS = 30


def read_objects(findings: Findings, objects: Path) -> Mapping[str, int]:
    """Hash every object; return their sizes by key."""
    stored = {}
    for path in sorted(objects.rglob("*")):
        if not path.is_file():
            continue
        key = str(path.relative_to(objects))
        if not key.startswith("sha256/"):
            if time.time() - path.stat().st_mtime > GRACE_SECONDS:
                findings.broken.append(f"{key} was left behind")
            continue
        content = path.read_bytes()
        if key != _key(hashlib.sha256(content).hexdigest()):
            findings.wrong_bytes.append(f"{key} is not what its name says")
        stored[key] = len(content)
    findings.objects, findings.object_bytes = len(stored), sum(stored.values())
    return stored


def check_files(
    findings: Findings,
    ledger: Ledger,
    emails: Sequence[Row],
    files: Mapping[int, Sequence[Row]],
    stored: Mapping[str, int],
) -> None:
    """Check the files of each e-mail that ended, and look for objects that nobody has."""
    used = {file["object_key"] for mine in files.values() for file in mine}
    findings.broken += [f"{key} belongs to no e-mail" for key in stored if key not in used]
    for email in emails:
        webhook = ledger.webhooks.get(email["zendesk_ticket_id"])
        if webhook is None or email["processing_status"] not in {"completed", "failed"}:
            continue  # which is said elsewhere
        name, mine = f"e-mail {email['id']} ({webhook.kind})", files.get(email["id"], [])
        findings.lost += [f"{name} {what}" for what in _missing(webhook, mine, stored)]
        if webhook.code is None:
            findings.files += len(mine)
            findings.wrong_bytes += [
                f"{name} has another file {file['position']} than was served"
                for file, sha256 in zip(mine, webhook.files, strict=False)
                if file["status"] == "stored" and file["sha256"] != sha256
            ]


def _missing(webhook: Webhook, files: Sequence[Row], stored: Mapping[str, int]) -> Iterator[str]:
    if len(files) != len(webhook.files):
        yield f"has {len(files)} of {len(webhook.files)} files on record"
    for file in files:
        key, about = file["object_key"], f"has no object for file {file['position']}"
        if webhook.code is None and file["status"] != "stored":
            yield f"{about}: it is {file['status']}, {file['error_code']}"
        elif file["status"] == "stored" and (key != _key(file["sha256"] or "") or key not in stored):
            yield f"{about}: {key}"
        elif file["status"] == "stored" and stored[key] != file["size"]:
            yield f"{about}: {key} has {stored[key]} bytes, not {file['size']}"


def _key(sha256: str) -> str:
    return f"sha256/{sha256[:2]}/{sha256[2:]}"
