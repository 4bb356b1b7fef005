"""Run Holdfast beside a stand-in Zendesk that sends twenty e-mails, and show their states with `holdfast tail`."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from aiohttp import ClientError, ClientSession, ClientTimeout

from service.local import environment
from service.local.launch import ServerError
from service.local.servers import free_port
from service.local.signals import interruptible, run_until_told
from service.local.stack import ROOT, Stack, is_free, open_stack, wait_until_ready
from service.local.supervisor import Program, supervise
from service.local.up import command_name, one_line_errors, print_row, say, try_it
from service.local.zendesk.samples import Sample, samples
from service.local.zendesk.stand_in import Fault, Zendesk

_DIRECTORY = Path(".holdfast/demo")
_TAIL = "tail"
_PAUSE_SECONDS = 0.25  # between two e-mails
_LONGEST_SECONDS = 120
_REFUSED, _REPEATED = 4, 7  # the e-mail whose first download fails, and the one that is sent twice
_COLOURS = {"processing": "cyan", "completed": "green", "failed": "red"}

Email = Mapping[str, Any]  # as the API shows it


@dataclass
class Demo:
    """The accepted e-mails and their states; `errors` are those of the demo itself."""

    states: dict[int, str] = field(default_factory=dict)  # by id, as `holdfast tail` printed them
    accepted: set[int] = field(default_factory=set)
    duplicates: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def unfinished(self) -> int:
        return sum(self.states.get(email_id) not in {"completed", "failed"} for email_id in self.accepted)

    def count(self, state: str) -> int:
        return sum(self.states.get(email_id) == state for email_id in self.accepted)


def run(port: int | None, data_dir: Path | None) -> None:
    """Run the demo until Ctrl-C; exit with 1 if an e-mail failed or took too long, with 2 if it cannot start."""
    demo = Demo()
    with one_line_errors():
        if port and not is_free(port):
            raise ServerError(f"port {port} is taken on 127.0.0.1: choose another with --port")
        port = port or (8000 if is_free(8000) else free_port())
        directory = data_dir or _DIRECTORY
        if not data_dir:
            say(f"starting with an empty database in {directory}")
        with (
            interruptible(),
            open_stack(directory, port, _without_settings(), say=say, fresh=not data_dir) as stack,
        ):
            run_until_told(lambda hurry: _run(stack, demo, hurry))
            say("stopping the servers")
    sys.exit(1 if demo.errors or demo.count("failed") else 0)


def _without_settings() -> Mapping[str, str]:
    """Return the user's environment without settings: the demo must reach no real account, database or storage."""
    return {name: value for name, value in os.environ.items() if name not in environment.names()}


async def _run(stack: Stack, demo: Demo, hurry: asyncio.Event) -> None:
    async with Zendesk(secret=stack.settings["ZENDESK_WEBHOOK_SECRETS"]) as zendesk:
        account = {
            "ZENDESK_URL": zendesk.url,
            "ZENDESK_OAUTH_CLIENT_ID": zendesk.client_id,
            "ZENDESK_OAUTH_CLIENT_SECRET": zendesk.client_secret,
        }
        programs = stack.programs(1, to_files=True, more=account)
        begin = datetime.now(UTC).isoformat()
        command = [
            sys.executable,
            "-m",
            "service",
            "tail",
            "--received-after",
            begin,
            "--last",
            "500",
            "--json",
        ]
        tail = Program(_TAIL, command, {**stack.own, **stack.settings}, ROOT)
        async with supervise([*programs, [tail]], lambda name, line: show(demo, name, line), hurry):
            await wait_until_ready(stack.url)
            say("web and a worker run\n")
            await _send_and_wait(demo, stack.url, zendesk)
            _summarize(stack, demo, await _list_emails(stack))
            if not demo.errors:
                await asyncio.Event().wait()


def show(demo: Demo, name: str, line: str) -> None:
    """Print a line of `tail`, which is one change of an e-mail, or a line of the supervisor."""
    try:
        change = json.loads(line) if name == _TAIL else None
    except ValueError:
        change = None
    if change is None:
        say(line)
        return
    state = change["processing_status"]
    demo.states[change["id"]] = state
    at = datetime.fromisoformat(change["at"]).astimezone()
    colour = "yellow" if change["error_code"] and state == "queued" else _COLOURS.get(state)
    error = f"  {change['processing_error']}" if change["processing_error"] and state != "processing" else ""
    about = f"{at:%H:%M:%S}  e-mail {change['id']:<3} ticket {change['zendesk_ticket_id']}"
    click.echo(f"  {about}  {click.style(state, fg=colour)}{error}")


async def _send_and_wait(demo: Demo, url: str, zendesk: Zendesk) -> None:
    """Send the e-mails and wait until all are completed or failed, for two minutes at most."""
    try:
        async with asyncio.timeout(_LONGEST_SECONDS):
            await _send_all(demo, f"{url}/webhooks/zendesk", zendesk)
            while demo.unfinished:  # noqa: ASYNC110 the supervisor calls `show`
                await asyncio.sleep(0.1)
    except TimeoutError:
        demo.errors.append(f"{demo.unfinished} e-mails did not complete within {_LONGEST_SECONDS} s")


async def _send_all(demo: Demo, url: str, zendesk: Zendesk) -> None:
    repeated: dict[str, Any] = {}
    for number, sample in enumerate(samples(), 1):
        payload = _payload(zendesk, number, sample)
        await _send(demo, url, zendesk, payload)
        if number == _REFUSED:
            ticket = payload["ticket_id"]
            say(f"Zendesk answers 503, Retry-After: 1, to the first download for ticket {ticket}")
        if number == _REPEATED:
            repeated = payload
        await asyncio.sleep(_PAUSE_SECONDS)
    answer = await _send(demo, url, zendesk, repeated)
    say(f"Zendesk sends ticket {repeated['ticket_id']} a second time; the answer is: {answer}")


async def _send(demo: Demo, url: str, zendesk: Zendesk, payload: dict[str, Any]) -> str:
    try:
        response = await zendesk.send(url, payload, retries=True)
    except (ClientError, TimeoutError) as exc:
        demo.errors.append(f"the webhook did not answer: {exc!r}")
        return "none"
    if response.status != 200:
        text = response.body.decode(errors="replace")
        demo.errors.append(f"the webhook answered {response.status}: {text}")
        return str(response.status)
    receipt = response.json()
    demo.accepted.add(receipt["email_id"])
    demo.duplicates += receipt["status"] == "duplicate"
    return str(receipt["status"])


def _payload(zendesk: Zendesk, number: int, sample: Sample) -> dict[str, Any]:
    refused = [Fault(status=503, headers={"Retry-After": "1"})] if number == _REFUSED else []
    urls = []
    for position, file in enumerate(sample.files):
        seconds = 1 + (number * 7 + position * 5) % 9 / 4.5  # one to three, slow enough to watch
        slow = [Fault(bytes_per_second=len(file.content) / seconds)] * 3
        faults = slow if position else [*refused, *slow]
        url = zendesk.add_file(file.name, file.content, content_type=file.content_type, faults=faults)
        urls.append(url)
    address = sample.from_name.encode("ascii", "ignore").decode().lower().replace(" ", ".")
    return zendesk.payload(
        ticket_id=48_100 + number,
        subject=sample.subject,
        from_name=sample.from_name,
        from_email=f"{address}@customer.example",
        attachments=urls,
    )


async def _list_emails(stack: Stack) -> Sequence[Email]:
    """Return all e-mails from the API; none if web does not answer."""
    headers = {"Authorization": f"Bearer {stack.settings['API_TOKEN']}"}
    try:
        async with (
            ClientSession(stack.url, headers=headers, timeout=ClientTimeout(total=10)) as session,
            session.get("/api/v1/emails", params={"limit": 100}) as response,
        ):
            emails: Sequence[Email] = (await response.json())["emails"] if response.status == 200 else ()
            return emails
    except (ClientError, TimeoutError):
        return ()


def _summarize(stack: Stack, demo: Demo, emails: Sequence[Email]) -> None:
    """Print the counts, the addresses and directories, and the next commands."""
    click.echo()
    for error in demo.errors:
        click.secho(f"  {error}", fg="red", bold=True)
    click.secho(f"  {_counts(demo, emails)}\n", bold=True)
    logs = f"{_short(stack.logs / 'web.log')}, {_short(stack.logs / 'worker.1.log')}"
    if demo.errors:
        print_row("logs", logs)
        return
    token, env_file = stack.settings["API_TOKEN"], f"--env-file {_short(stack.data_dir / 'env')}"
    print_row("dashboard", f"{stack.url}/")
    print_row("", f"sign in with the token {token}")
    print_row("files", _short(stack.data_dir / "objects"))
    if files := [file for email in emails for file in email["attachments"] if file["object_key"]]:
        print_row("", f"{files[-1]['object_key']} is {files[-1]['file_name']}")
    print_row("API", f"{stack.url}/api/v1/emails")
    print_row("", f"curl -H 'Authorization: Bearer {token}' {stack.url}/api/v1/emails/1")
    print_row("logs", logs)
    print_row("watch", f"{command_name()} tail {env_file}")
    print_row("try it", try_it(env_file))
    print_row("stop", "Ctrl-C")


def _counts(demo: Demo, emails: Sequence[Email]) -> str:
    files = [file for email in emails for file in email["attachments"] if file["status"] == "stored"]
    objects = {file["object_key"] for file in files}
    megabytes = sum(file["size"] for file in files) / 1e6
    parts = [
        f"{demo.count('completed')} e-mails completed, {demo.count('failed')} failed",
        f"{len(files)} files ({megabytes:.1f} MB) in {len(objects)} objects",
        _number(sum(email["retry_count"] for email in emails), "retry", "retries"),
        _number(demo.duplicates, "duplicate", "duplicates"),
    ]
    return " · ".join(parts)


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
