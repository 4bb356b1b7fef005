"""Connect Holdfast to a stand-in Zendesk that gets twenty e-mails, and show their states with `holdfast tail`."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from aiohttp import ClientError, ClientSession, ClientTimeout

from service.local import environment
from service.local.launch import ServerError
from service.local.servers import free_port
from service.local.signals import interruptible, run_until_told
from service.local.stack import ROOT, Stack, connect, is_free, open_stack, wait_until_ready
from service.local.supervisor import Program, supervise
from service.local.up import command_name, env_file_option, one_line_errors, print_row, say, short, try_it
from service.local.zendesk.samples import Sample, samples
from service.local.zendesk.stand_in import Fault, WebhookResponse, Zendesk

_DIRECTORY = Path(".holdfast/demo")
_TAIL = "tail"
_SECRET = "ZENDESK_WEBHOOK_SECRETS"  # noqa: S105 the name of a setting
_FIRST_TICKET = 48_100  # the one before
_PAUSE_SECONDS = 0.25  # between two e-mails
_LONGEST_SECONDS = 120
_REFUSED, _REPEATED = 4, 8  # the e-mail whose first download fails, and the one that is sent twice
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
    # Web and worker know no signing secret: `holdfast connect` makes the webhook, and fetches its secret.
    settings = {name: value for name, value in stack.settings.items() if name != _SECRET}
    stack = replace(stack, settings=settings)
    async with Zendesk() as zendesk:
        zendesk.state.gives_originals = True
        account = {
            "ZENDESK_URL": zendesk.url,
            "ZENDESK_OAUTH_CLIENT_ID": zendesk.client_id,
            "ZENDESK_OAUTH_CLIENT_SECRET": zendesk.client_secret,
            "BACKFILL_MINUTES": "1",
        }
        programs = stack.programs(1, to_files=True, more=account)
        async with supervise([*programs, [_tail(stack)]], lambda name, line: show(demo, name, line), hurry):
            await wait_until_ready(stack.url)
            say("web and a worker run")
            await _connect(stack, zendesk, account)
            await _send_and_wait(demo, stack.url, zendesk)
            _summarize(stack, demo, await _list_emails(stack))
            if not demo.errors:
                await asyncio.Event().wait()


def _tail(stack: Stack) -> Program:
    begin = datetime.now(UTC).isoformat()
    options = ["--received-after", begin, "--last", "500", "--json"]
    command = [sys.executable, "-m", "service", "tail", *options]
    return Program(_TAIL, command, {**stack.own, **stack.settings}, ROOT)


async def _connect(stack: Stack, zendesk: Zendesk, account: Mapping[str, str]) -> None:
    """Connect the empty account, and save what `holdfast send` needs to find the stand-in."""
    say(f"holdfast connect --url {stack.url} --yes")
    for line in await connect(stack, account):
        click.echo(f"  {line}")
    click.echo()
    (webhook,) = zendesk.state.rules.webhooks.values()
    environment.write(stack.data_dir / "env", {**stack.settings, **account, _SECRET: webhook.secret})


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
    """Let all e-mails reach the stand-in, whose trigger announces each."""
    repeated: dict[str, Any] = {}
    for number, sample in enumerate(samples(), 1):
        payload = add_sample(zendesk, number, sample)
        await zendesk.delivered()
        _note_answer(demo, zendesk.state.rules.invocations[-1].answer)
        ticket = payload["ticket_id"]
        if number == _REFUSED:
            say(f"Zendesk answers 503, Retry-After: 1, to the first download for ticket {ticket}")
        if number == _REPEATED:
            repeated = payload
        await asyncio.sleep(_PAUSE_SECONDS)
    (webhook,) = zendesk.state.rules.webhooks.values()
    try:
        answer = _note_answer(demo, await zendesk.send(url, repeated, secret=webhook.secret, retries=True))
    except (ClientError, TimeoutError) as exc:
        demo.errors.append(f"the webhook did not answer: {exc!r}")
    else:
        say(f"Zendesk sends ticket {repeated['ticket_id']} a second time; the answer is: {answer}")


def _note_answer(demo: Demo, response: WebhookResponse) -> str:
    """Note the answer to a webhook; return it in a word."""
    if response.status != 200:
        text = response.body.decode(errors="replace")
        demo.errors.append(f"the webhook answered {response.status or 'nothing'}: {text}")
        return str(response.status)
    receipt = response.json()
    demo.accepted.add(receipt["email_id"])
    demo.duplicates += receipt["status"] == "duplicate"
    return str(receipt["status"])


def add_sample(zendesk: Zendesk, number: int, sample: Sample) -> dict[str, Any]:
    """Let an e-mail reach the stand-in; return the body of its webhook."""
    refused = [Fault(status=503, headers={"Retry-After": "1"})] if number == _REFUSED else []
    urls = []
    for position, file in enumerate((*sample.files, *sample.inline)):
        seconds = 1 + (number * 7 + position * 5) % 9 / 4.5  # one to three, slow enough to watch
        slow = [Fault(bytes_per_second=len(file.content) / seconds)] * 3
        faults = slow if position else [*refused, *slow]
        url = zendesk.add_file(file.name, file.content, content_type=file.content_type, faults=faults)
        urls.append(url)
    ticket = _FIRST_TICKET + sample.ticket
    comment_id = zendesk.add_email(
        ticket,
        subject=sample.subject,
        from_name=sample.from_name,
        from_address=sample.from_address,
        to=sample.to,
        cc=sample.cc,
        text=sample.text,
        html=sample.html,
        attachments=urls[: len(sample.files)],
        inline=urls[len(sample.files) :],
        outbound=sample.outbound,
        follows=None if sample.follows is None else _FIRST_TICKET + sample.follows,
    )
    return zendesk.announcement(ticket, comment_id)


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
    logs = f"{short(stack.logs / 'web.log')}, {short(stack.logs / 'worker.1.log')}"
    if demo.errors:
        print_row("logs", logs)
        return
    token, env_file = stack.settings["API_TOKEN"], env_file_option(stack.data_dir)
    print_row("dashboard", f"{stack.url}/")
    print_row("", f"sign in with the token {token}")
    print_row("files", short(stack.data_dir / "objects"))
    if files := [file for email in emails for file in email["attachments"] if file["object_key"]]:
        print_row("", f"{files[-1]['object_key']} is {files[-1]['file_name']}")
    print_row("API", f"{stack.url}/api/v1/emails")
    print_row("", f"curl -H 'Authorization: Bearer {token}' {stack.url}/api/v1/emails/1/message.txt")
    print_row("search", f"{stack.url}/emails?q=V-4711")
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
