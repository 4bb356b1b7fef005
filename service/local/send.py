"""Send one webhook to a running Holdfast, serve its attachments, and wait until the e-mail is finished.

Beside `holdfast demo`, a payload without attachments or a comment's id becomes an e-mail at the demo's stand-in.
"""

import asyncio
import base64
import json
import mimetypes
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click
from aiohttp import ClientError, ClientSession, ClientTimeout
from yarl import URL

from service.config.reading import read_env_file
from service.local.launch import is_in_use
from service.local.signals import interruptible, run_until_told
from service.local.zendesk.sample_files import SampleFile
from service.local.zendesk.stand_in import EMAILS, WebhookResponse, Zendesk

_FILE, _DEMO = Path(".holdfast/env"), Path(".holdfast/demo/env")
# Settings in the environment that are of one installation: none of them may go to the demo.
_OWN = ("PORT", "API_TOKEN", "ZENDESK_WEBHOOK_SECRETS")
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


@dataclass(frozen=True)
class Installation:
    """A running Holdfast: its address without a slash at the end, and its settings as far as they are known here.

    `hint` is what to say where a setting is missing.
    """

    url: str
    settings: Mapping[str, str]
    hint: str = ""

    @property
    def secret(self) -> str:
        """The newest secret that signs its webhooks."""
        return self.require("ZENDESK_WEBHOOK_SECRETS").strip(", \t\r\n").partition(",")[0].strip()

    @property
    def has_stand_in(self) -> bool:
        """Whether its Zendesk is the stand-in of `holdfast demo`."""
        return URL(self.settings.get("ZENDESK_URL", "")).host == "127.0.0.1"

    def require(self, name: str) -> str:
        if name not in self.settings:
            raise click.ClickException(
                f"{name} is not set: set it, or run this in the directory where `holdfast up` wrote {_FILE}{self.hint}"
            )
        return self.settings[name]


def find_installation(url: str | None, env_file: Path | None) -> Installation:
    """Return the installation at this address, or the one of this directory."""
    own = {name: value for name, value in os.environ.items() if value}
    is_named = url is not None or any(name in own for name in _OWN)
    path, hint = (env_file, "") if env_file else _file_here(is_named=is_named)
    settings = {**read_env_file(path), **own}
    url = url or f"http://127.0.0.1:{settings.get('PORT', '8000')}"
    return Installation(url.rstrip("/"), settings, hint)


def _file_here(*, is_named: bool) -> tuple[Path, str]:
    """Return the file of settings of this directory, and a hint where it lacks some.

    A demo's file is used only while the demo runs, and unless an installation is named.
    """
    if _FILE.exists() or not _DEMO.exists():
        return _FILE, ""
    if not is_in_use(_DEMO.parent):
        return _FILE, f"; {_DEMO} is of a demo that has ended"
    if is_named:
        return _FILE, f"; for the demo of this directory, add --env-file {_DEMO}"
    return _DEMO, ""


def run(body: bytes, files: Sequence[Path], url: str | None, env_file: Path | None) -> None:
    """Send a webhook; exit with 0 if the e-mail completes or, without files, if the webhook is accepted; else with 1."""
    there = find_installation(url, env_file)
    email = _email(body) if there.has_stand_in else None
    if is_followed := bool(files or email):
        there.require("API_TOKEN")
    payload = _read_object(body) if files and email is None else None

    async def main(zendesk: Zendesk) -> bool:
        if payload is not None:
            attach(payload, zendesk, [read_file(path) for path in files])
        sent = body if payload is None else payload
        if email is not None:
            sent = await deliver(there, email, [read_file(path) for path in files])
        answer = await post(zendesk, there, sent)
        return await follow(answer, there, is_followed=is_followed)

    run_beside(there, main)


def run_beside(there: Installation, main: Callable[[Zendesk], Awaitable[bool]]) -> NoReturn:
    """Run `main` with a stand-in that signs as Zendesk does; exit with 0 if it returns True, else with 1."""
    secret, succeeded = there.secret, False

    async def work(_: asyncio.Event) -> None:
        nonlocal succeeded
        async with Zendesk(secret=secret) as zendesk:
            succeeded = await main(zendesk)

    with interruptible():
        run_until_told(work)
    sys.exit(0 if succeeded else 1)


async def deliver(
    there: Installation, email: Mapping[str, object], files: Sequence[SampleFile]
) -> dict[str, Any]:
    """Let an e-mail reach the demo's stand-in; return the body of its webhook."""
    attached = [
        {
            "name": file.name,
            "content_type": file.content_type,
            "content": base64.b64encode(file.content).decode(),
        }
        for file in files
    ]
    async with (
        _stand_in(there) as session,
        session.post(EMAILS, json={**email, "files": attached}) as response,
    ):
        sent = dict(await response.json())
    click.echo(f"Zendesk's stand-in has the e-mail; its webhook is {json.dumps(sent)}")
    return sent


def attach(payload: dict[str, Any], zendesk: Zendesk, files: Sequence[SampleFile]) -> None:
    """Serve files at the stand-in of this process, and add their addresses to a payload."""
    urls = [
        # Public: the server has no credentials of this stand-in.
        zendesk.add_file(file.name, file.content, content_type=file.content_type, public=True)
        for file in files
    ]
    payload["attachments"] = [
        *(payload.get("attachments") or []),
        *zendesk.payload(attachments=urls)["attachments"],
    ]


async def post(
    zendesk: Zendesk,
    there: Installation,
    body: bytes | dict[str, Any],
    headers: Mapping[str, str] | None = None,
) -> WebhookResponse:
    """Send a webhook, and print the answer; `headers` replace those of Zendesk."""
    try:
        answer = await zendesk.send(f"{there.url}/webhooks/zendesk", body, headers=dict(headers or {}))
    except (ClientError, TimeoutError, ValueError) as exc:
        reason = exc or "timeout"
        raise click.ClickException(
            f"no answer from {there.url}: {reason}; is `holdfast up` running?"
        ) from exc
    click.echo(f"{answer.status} {answer.body.decode(errors='replace').strip()}")
    return answer


async def follow(answer: WebhookResponse, there: Installation, *, is_followed: bool = True) -> bool:
    """Print what becomes of a webhook; return whether its e-mail completed, or is accepted where it is not followed."""
    if answer.status != 200:
        return False
    receipt = answer.json()
    if (webhook_id := receipt.get("quarantine_id")) is not None:
        page = f"{there.url}/quarantine/{webhook_id}"
        click.echo(f"It is in quarantine, because its body is no e-mail that Holdfast can read: {page}")
        return False
    if not is_followed or receipt.get("email_id") is None:
        return not is_followed
    return await _wait(receipt["email_id"], there)


async def first_attachment(there: Installation, webhook: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first file of an e-mail at the demo's stand-in, as Zendesk's events describe it."""
    async with (
        _stand_in(there) as session,
        session.get(f"/api/v2/tickets/{webhook['ticket_id']}/comments.json") as response,
    ):
        comments = (await response.json())["comments"]
    files = [file for comment in comments for file in comment["attachments"]]
    about = {name: files[0][name] for name in ("content_type", "content_url")}
    return {**about, "filename": files[0]["file_name"], "id": str(files[0]["id"]), "is_public": True}


def as_bytes(payload: Mapping[str, Any]) -> bytes:
    return json.dumps(payload).encode()


def read_file(path: Path) -> SampleFile:
    content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return SampleFile(path.name, path.read_bytes(), content_type)


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


def _email(body: bytes) -> dict[str, object] | None:
    """Return the e-mail that a payload describes, as the stand-in takes it; None for any other payload."""
    try:
        payload = json.loads(body)
    except ValueError:
        return None
    if not isinstance(payload, dict) or "ticket_id" not in payload or payload.keys() - _FIELDS.keys():
        return None
    return {_FIELDS[name]: value for name, value in payload.items() if value is not None}


@asynccontextmanager
async def _stand_in(there: Installation) -> AsyncIterator[ClientSession]:
    """Open a session with the demo's stand-in, signed in with the credentials of the installation."""
    url, settings = there.settings["ZENDESK_URL"], there.settings
    asked = {
        "grant_type": "client_credentials",
        "client_id": settings.get("ZENDESK_OAUTH_CLIENT_ID"),
        "client_secret": settings.get("ZENDESK_OAUTH_CLIENT_SECRET"),
        "scope": "read",
    }
    try:
        async with ClientSession(url, raise_for_status=True, timeout=ClientTimeout(total=30)) as session:
            async with session.post("/oauth/tokens", json=asked) as response:
                token = (await response.json())["access_token"]
            session.headers["Authorization"] = f"Bearer {token}"
            yield session
    except (ClientError, TimeoutError) as exc:
        reason = exc or "timeout"
        raise click.ClickException(f"no answer from {url}: {reason}; is `holdfast demo` running?") from exc


async def _wait(email_id: int, there: Installation) -> bool:
    """Print each change of the e-mail until it is finished; return whether it completed."""
    printed, url = "", there.url
    headers = {"Authorization": f"Bearer {there.require('API_TOKEN').strip()}"}
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
