"""`holdfast emails list|show|holding`: find e-mails, and show one with its message and its history."""

import base64
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from service.cli.backends.choice import anywhere, with_backend
from service.cli.deletable import deletable
from service.cli.dismiss import dismiss, shown_dismissal, undismiss
from service.cli.download import download
from service.cli.export import export
from service.cli.filters import ID, Listing, collect, filters, selection
from service.cli.reparse import reparse
from service.cli.retry import retry, sync
from service.cli.terminal import (
    Column,
    json_option,
    print_bytes,
    print_facts,
    print_json,
    print_line,
    print_table,
    progress,
)
from service.cli.times import shown_time
from service.error_guide import action_on
from service.formatting import number, printable

if TYPE_CHECKING:
    from datetime import datetime

    from service.cli.backends.port import Backend
    from service.queries.emails import EmailFilter
    from service.queries.views import (
        AttachmentView,
        AttemptView,
        EmailDetail,
        EmailPage,
        EmailView,
        MessageView,
        PersonView,
    )

COLUMNS = (
    Column("id", whole=True),
    Column("ticket"),
    Column("from", least_width=150),
    Column("subject", least_width=120),
    Column("status", whole=True),
    Column("retries", least_width=150),
    Column("received", whole=True),
    Column("sync", whole=True, least_width=100),
    Column("reason"),
)
MOST_LINES = 60  # of a text
FILTER_COLUMNS = (
    Column("name", whole=True),
    Column("filter"),
    Column("saved by", least_width=100),
)
HOLDER_COLUMNS = (
    Column("e-mail", whole=True),
    Column("file", whole=True),
    Column("bytes"),
    Column("name"),
)


@click.group(cls=Listing)
def emails() -> None:
    """List, show, download, export, retry or dismiss e-mails.

    Without a command, it lists them.
    """


emails.add_command(retry)
emails.add_command(reparse)
emails.add_command(sync)
emails.add_command(dismiss)
emails.add_command(undismiss)
emails.add_command(download)
emails.add_command(export)
emails.add_command(deletable)


@emails.command("list")
@click.argument("words", nargs=-1, metavar="[WORD]...")
@filters()
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Most to list.")
@json_option
@anywhere
def list_(words: Sequence[str], limit: int, *, as_json: bool, **chosen: str | bool | None) -> None:
    """List e-mails, newest first; with WORDs, those that have them.

    In a pipe, one e-mail per line, tab-separated: id, ticket, sender, subject, status, retries, time, sync, reason.
    """
    from service.queries.emails import EmailFilter

    text = " ".join([str(chosen.get("q") or ""), *words]).strip()
    wanted = selection(EmailFilter, {**chosen, "q": text or None})
    page = with_backend(lambda backend: _collect(backend, wanted, limit))
    if as_json:
        print_json(page)
        return
    print_table(COLUMNS, map(_row, page.emails))
    if page.next_cursor and sys.stdout.isatty():
        count = number(page.total, page.total_capped) if page.total else "more"
        click.echo(
            f"{len(page.emails):,} of {count} are shown; --limit shows more, filters narrow the list.",
            err=True,
        )


@emails.command()
@click.argument("email_id", metavar="ID", type=ID)
@click.option("--raw", is_flag=True, help="Print the original body of the webhook, byte for byte.")
@click.option("--text", is_flag=True, help="Print the whole text of the message alone.")
@json_option
@anywhere
def show(email_id: int, *, raw: bool, text: bool, as_json: bool) -> None:
    """Show an e-mail with its message, its attachments and its history."""
    if raw:
        request = with_backend(lambda backend: backend.request(email_id))
        print_bytes(base64.b64decode(request.body_base64))
        return
    if text:
        print_bytes(with_backend(lambda backend: backend.text(email_id)))
        return
    email = with_backend(lambda backend: backend.email(email_id))
    if as_json:
        print_json(email)
    else:
        _print_email(email)


@emails.command()
@click.argument("sha256")
@json_option
@anywhere
def holding(sha256: str, *, as_json: bool) -> None:
    """List the e-mails with an attachment of this SHA-256.

    Those whose message is stored under it are listed, too.
    """
    page = with_backend(lambda backend: backend.holders(sha256.lower()))
    files = ((each.email_id, each.position, each.size, each.file_name or "") for each in page.holders)
    messages = ((each.email_id, each.part, each.size, "") for each in page.messages)
    rows = (*files, *messages)
    print_json(page) if as_json else print_table(HOLDER_COLUMNS, rows)


@emails.command("filters")
@json_option
@anywhere
def list_filters(*, as_json: bool) -> None:
    """List the saved filters of the list of e-mails; --saved uses one."""
    page = with_backend(lambda backend: backend.saved_filters())
    rows = (
        (each.name, each.filter.model_dump_json(exclude_none=True), each.saved_by) for each in page.filters
    )
    print_json(page) if as_json else print_table(FILTER_COLUMNS, rows)


async def _collect(backend: "Backend", wanted: "EmailFilter", limit: int) -> "EmailPage":
    with progress("Searching", limit) as show_progress:

        def page_read(found: int, page: "EmailPage") -> None:
            show_progress(found, f"back to {shown_time(page.searched_to)}" if page.searched_to else "")

        return await collect(backend.emails, wanted, limit, "emails", page_read)


def _row(email: "EmailView") -> tuple[object, ...]:
    return (
        email.id,
        email.zendesk_ticket_id,
        email.from_email or "",
        email.subject or "",
        f"{email.processing_status}{' (dismissed)' if email.dismissal else ''}",
        email.retry_count,
        shown_time(email.received_at),
        _sync(email),
        email.processing_error or email.sync_error or email.error_code or "",
    )


def _sync(email: "EmailView") -> str:
    """Return the state of the sync; "" while there is nothing to sync."""
    is_over = email.processing_status in {"completed", "failed"}
    return "" if email.sync_status == "not_applicable" or not is_over else email.sync_status


def _print_email(email: "EmailDetail") -> None:
    print_line(f"E-mail {email.id}", "of ticket", email.zendesk_ticket_id, "is", email.processing_status)
    print_facts(
        [
            ("reason", email.processing_error),
            ("code", email.error_code),
            ("what to do", action_on(email.error_code)),
            ("host", email.error_host),
            ("account", email.account_id),
            ("comment", email.comment_id),
            ("invocation", email.invocation_id),
            ("key", email.idempotency_key),
            ("late", "yes, the time of its signature was too far from ours" if email.late else None),
            ("dismissed", email.dismissal and shown_dismissal(email.dismissal)),
            ("held by", ", ".join(email.held_by) or None),
        ]
    )
    if email.sync_status != "not_applicable":
        click.echo()
        print_line("The sync is", email.sync_status)
        print_facts(_sync_facts(email))
    if email.message:
        _print_message(email.message)
    _print_part("Files", map(_file, email.attachments))
    _print_part("History", _timeline(email))
    _print_part("Further webhooks", ((shown_time(each.received_at), each.id) for each in email.announcements))


def _print_message(message: "MessageView") -> None:
    whence = "as Zendesk has it" if message.source == "zendesk" else "as the webhook says"
    click.echo(f"\nMessage, {whence}")
    print_facts(
        [
            ("from", message.sender and _person(message.sender)),
            ("to", ", ".join(map(_person, message.to)) or None),
            ("cc", ", ".join(map(_person, message.cc)) or None),
            ("date", message.sent_at and shown_time(message.sent_at)),
            ("subject", message.subject),
            ("kind", _kind(message)),
        ]
    )
    lines = (message.text or "").splitlines()
    click.echo("".join(f"\n  {printable(line)}".rstrip(" ") for line in lines[:MOST_LINES]))
    if len(lines) > MOST_LINES or len((message.text or "").encode()) < message.text_size:
        click.echo(f"  (cut; `holdfast emails show --text {message.email_id}` prints all of it)")


def _person(person: "PersonView") -> str:
    if person.name and person.address:
        return f"{person.name} <{person.address}>"
    return person.name or person.address or ""


def _kind(message: "MessageView") -> str | None:
    """Name the unusual properties of a message: most are public, and from outside."""
    words = ["written by an agent"] if message.direction == "outbound" else []
    words += ["not public"] if message.public is False else []
    return ", ".join(words) or None


def _sync_facts(email: "EmailDetail") -> Iterator[tuple[str, object]]:
    is_over = email.processing_status in {"completed", "failed"}
    yield "reason", email.sync_error
    yield "code", email.sync_error_code
    yield "what to do", action_on(email.sync_error_code)
    yield "retries", email.sync_retry_count or None
    yield "attempts", email.sync_attempt_number or None
    yield "synced", shown_time(email.synced_at) if email.synced_at else None
    if email.sync_status == "pending":
        yield "due", shown_time(email.sync_due_at) if is_over else "when the job has ended"


def _timeline(email: "EmailDetail") -> Iterator[tuple[object, ...]]:
    events: list[tuple[datetime, tuple[object, ...]]] = [(email.received_at, ("received",))]
    for attempt in email.attempts:
        events.append((attempt.started_at, (f"{_name(attempt)} begun by {attempt.worker}",)))
        if attempt.finished_at:
            events.append((attempt.finished_at, _end(attempt)))
    for action in email.actions:
        reason = (action.reason,) if action.reason else ()
        events.append((action.at, (f"{action.action} by {action.actor}", *reason)))
    if email.synced_at:
        events.append((email.synced_at, ("synced",)))
    for time, what in sorted(events, key=lambda event: event[0]):
        yield (shown_time(time), *what)
    if email.processing_status == "queued":
        yield (shown_time(email.due_at), "latest start of the next attempt")


def _name(attempt: "AttemptView") -> str:
    return f"attempt {attempt.number}" if attempt.number > 0 else "attempt of a merged e-mail"


def _end(attempt: "AttemptView") -> tuple[object, ...]:
    words = (attempt.error_code, attempt.error)
    return _name(attempt), attempt.outcome or "", *(word for word in words if word)


def _file(file: "AttachmentView") -> tuple[object, ...]:
    size = file.declared_size if file.size is None else file.size
    words = (
        f"{size:,} bytes" if size is not None else None,
        file.detected_type or file.declared_type,
        file.sha256,
        file.error_code,
        file.error,
    )
    name = file.file_name or "(no name)"
    return file.position, file.status, name, *(word for word in words if word)


def _print_part(title: str, lines: Iterator[tuple[object, ...]]) -> None:
    for place, line in enumerate(lines):
        if place == 0:
            click.echo(f"\n{title}")
        print_line(" ", *line)
