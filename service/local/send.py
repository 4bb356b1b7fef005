"""Send one webhook to a running Holdfast, serve its attachments, and wait until the e-mail is finished.

Beside `holdfast demo`, a payload without attachments or a comment's id becomes an e-mail at the demo's stand-in.
"""

import asyncio
import base64
import json
import mimetypes
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from aiohttp import ClientError, ClientSession, ClientTimeout
from yarl import URL

from service.config.reading import read_env_file
from service.local.signals import interruptible, run_until_told
from service.local.zendesk.stand_in import EMAILS, WebhookResponse, Zendesk

_FILES = (Path(".holdfast/env"), Path(".holdfast/demo/env"))
_PAUSE_SECONDS = 0.2
# What the stand-in calls the fields of a payload that describes an e-mail.
_FIELDS = {
    "ticket_id": "ticket_id",
    "subject": "subject",
    "from_name": "from_name",
    "from_email": "from_address",
    "body_text": "text",
    "body_html": "html",
}


def run(body: bytes, files: Sequence[Path], url: str | None, env_file: Path | None) -> None:
    """Send a webhook; exit with 0 if the e-mail completes or, without files, if the webhook is accepted; else with 1."""
    settings = _settings(env_file)
    url = (url or f"http://127.0.0.1:{settings.get('PORT', '8000')}").rstrip("/")
    secret = _require(settings, "ZENDESK_WEBHOOK_SECRETS").strip(", \t\r\n").partition(",")[0].strip()
    email = _email(body) if _has_stand_in(settings) else None
    token = _require(settings, "API_TOKEN").strip() if files or email else ""
    payload = _read_object(body) if files and email is None else None
    succeeded = False

    async def main(_: asyncio.Event) -> None:
        nonlocal succeeded
        async with Zendesk(secret=secret) as zendesk:
            if payload is not None:
                _attach(payload, zendesk, files)
            sent = body if payload is None else payload
            if email is not None:
                sent = await _deliver(settings, email, files)
                click.echo(f"Zendesk's stand-in has the e-mail; its webhook is {json.dumps(sent)}")
            answer = await _post(zendesk, url, sent)
            click.echo(f"{answer.status} {answer.body.decode(errors='replace').strip()}")
            succeeded = answer.status == 200
            if token:
                succeeded = succeeded and await _wait(answer, url, token)

    with interruptible():
        run_until_told(main)
    sys.exit(0 if succeeded else 1)


def _settings(env_file: Path | None) -> Mapping[str, str]:
    path = env_file or next((path for path in _FILES if path.exists()), _FILES[0])
    return {**read_env_file(path), **{name: value for name, value in os.environ.items() if value}}


def _require(settings: Mapping[str, str], name: str) -> str:
    if name not in settings:
        raise click.ClickException(
            f"{name} is not set: set it, or run this in the directory where `holdfast up` wrote {_FILES[0]}"
        )
    return settings[name]


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        payload = json.loads(body)
    except ValueError as exc:
        raise click.ClickException(f"PAYLOAD is not JSON, so --attach cannot be used: {exc}") from exc
    if not isinstance(payload, dict) or not isinstance(payload.get("attachments") or [], list):
        raise click.ClickException(
            "PAYLOAD is not an object with a list of attachments, so --attach cannot be used"
        )
    return payload


def _has_stand_in(settings: Mapping[str, str]) -> bool:
    return URL(settings.get("ZENDESK_URL", "")).host == "127.0.0.1"


def _email(body: bytes) -> dict[str, object] | None:
    """Return the e-mail that a payload describes, as the stand-in takes it; None for any other payload."""
    try:
        payload = json.loads(body)
    except ValueError:
        return None
    if not isinstance(payload, dict) or "ticket_id" not in payload or payload.keys() - _FIELDS.keys():
        return None
    return {_FIELDS[name]: value for name, value in payload.items() if value is not None}


async def _deliver(
    settings: Mapping[str, str], email: Mapping[str, object], files: Sequence[Path]
) -> dict[str, Any]:
    """Let an e-mail reach the demo's stand-in; return the body of its webhook."""
    url = settings["ZENDESK_URL"]
    asked = {
        "grant_type": "client_credentials",
        "client_id": settings.get("ZENDESK_OAUTH_CLIENT_ID"),
        "client_secret": settings.get("ZENDESK_OAUTH_CLIENT_SECRET"),
        "scope": "read",
    }
    attached = [
        {
            "name": path.name,
            "content_type": _content_type(path),
            "content": base64.b64encode(path.read_bytes()).decode(),
        }
        for path in files
    ]
    try:
        async with ClientSession(url, raise_for_status=True, timeout=ClientTimeout(total=30)) as session:
            async with session.post("/oauth/tokens", json=asked) as response:
                headers = {"Authorization": f"Bearer {(await response.json())['access_token']}"}
            async with session.post(EMAILS, json={**email, "files": attached}, headers=headers) as response:
                return dict(await response.json())
    except (ClientError, TimeoutError) as exc:
        reason = exc or "timeout"
        raise click.ClickException(f"no answer from {url}: {reason}; is `holdfast demo` running?") from exc


def _attach(payload: dict[str, Any], zendesk: Zendesk, files: Sequence[Path]) -> None:
    urls = [
        zendesk.add_file(
            path.name,
            path.read_bytes(),
            content_type=_content_type(path),
            public=True,  # the server has no credentials of this stand-in
        )
        for path in files
    ]
    payload["attachments"] = [
        *(payload.get("attachments") or []),
        *zendesk.payload(attachments=urls)["attachments"],
    ]


def _content_type(path: Path) -> str:
    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"


async def _post(zendesk: Zendesk, url: str, body: bytes | dict[str, Any]) -> WebhookResponse:
    try:
        return await zendesk.send(f"{url}/webhooks/zendesk", body)
    except (ClientError, TimeoutError, ValueError) as exc:
        reason = exc or "timeout"
        raise click.ClickException(f"no answer from {url}: {reason}; is `holdfast up` running?") from exc


async def _wait(answer: WebhookResponse, url: str, token: str) -> bool:
    """Print each change of the e-mail until it is finished; return whether it completed."""
    email_id = answer.json().get("email_id")
    if email_id is None:
        return False
    printed = ""
    headers = {"Authorization": f"Bearer {token}"}
    async with ClientSession(headers=headers, timeout=ClientTimeout(total=10)) as session:
        while True:
            email = await _get_email(session, f"{url}/api/v1/emails/{email_id}")
            if email and printed != (printed := _describe(email)):
                click.echo(printed)
            if email and email["processing_status"] in {"completed", "failed"}:
                click.echo(f"{url}/emails/{email_id}")
                return bool(email["processing_status"] == "completed")
            await asyncio.sleep(_PAUSE_SECONDS)


async def _get_email(session: ClientSession, url: str) -> dict[str, Any]:
    """Return the e-mail, or nothing while web does not answer: it may be restarting."""
    try:
        async with session.get(url) as response:
            if 400 <= response.status < 500:
                raise click.ClickException(f"{response.status} {await response.text()}")
            return dict(await response.json()) if response.status == 200 else {}
    except (ClientError, TimeoutError):
        return {}


def _describe(email: Mapping[str, Any]) -> str:
    stored = sum(file["status"] == "stored" for file in email["attachments"])
    parts = [
        f"e-mail {email['id']}: {email['processing_status']}",
        f"{stored}/{len(email['attachments'])} files",
    ]
    if email["retry_count"]:
        parts.append(f"retry {email['retry_count']}")
    if email["processing_error"]:
        parts.append(email["processing_error"])
    return ", ".join(parts)
