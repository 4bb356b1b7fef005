"""A page about one e-mail, for people."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from service.cli.terminal import print_facts, print_line, shown_time

if TYPE_CHECKING:
    from datetime import datetime

    from service.queries.views import AttachmentView, AttemptView, EmailDetail


def print_email(email: "EmailDetail") -> None:
    """Print what is known, in the order in which one asks for it."""
    sender = " ".join(part for part in (email.from_name, email.from_email) if part)
    print_line(f"E-mail {email.id}", "of ticket", email.zendesk_ticket_id, "is", email.processing_status)
    print_facts(
        [
            ("reason", email.processing_error),
            ("code", email.error_code),
            ("host", email.error_host),
            ("from", sender or None),
            ("subject", email.subject),
            ("account", email.account_id),
            ("comment", email.comment_id),
            ("invocation", email.invocation_id),
            ("key", email.idempotency_key),
            ("late", "yes, its signature was of another time" if email.late else None),
        ]
    )
    if email.sync_status != "not_applicable":
        click.echo()
        print_line("Its sync is", email.sync_status)
        print_facts(_sync(email))
    _print_part("What happened", _timeline(email))
    _print_part("Files", map(_file, email.attachments))


def _sync(email: "EmailDetail") -> Iterator[tuple[str, object]]:
    is_over = email.processing_status in {"completed", "failed"}
    yield "reason", email.sync_error
    yield "code", email.sync_error_code
    yield "retries", email.sync_retry_count or None
    yield "attempts", email.sync_attempt_number or None
    yield "synced", shown_time(email.synced_at) if email.synced_at else None
    if email.sync_status == "pending":
        yield "due", shown_time(email.sync_due_at) if is_over else "when its job has ended"


def _timeline(email: "EmailDetail") -> Iterator[tuple[object, ...]]:
    events: list[tuple[datetime, tuple[object, ...]]] = [(email.received_at, ("received",))]
    for attempt in email.attempts:
        events.append((attempt.started_at, (f"attempt {attempt.number} begun by {attempt.worker}",)))
        if attempt.finished_at:
            events.append((attempt.finished_at, _end(attempt)))
    events += [(action.at, (f"{action.action} by {action.actor}",)) for action in email.actions]
    if email.synced_at:
        events.append((email.synced_at, ("synced",)))
    for time, what in sorted(events, key=lambda event: event[0]):
        yield (shown_time(time), *what)
    if email.processing_status == "queued":
        yield (shown_time(email.due_at), "is when the next attempt is due, at the latest")


def _end(attempt: "AttemptView") -> tuple[object, ...]:
    words = (attempt.error_code, attempt.error)
    return f"attempt {attempt.number}", attempt.outcome or "", *(word for word in words if word)


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
    for number, line in enumerate(lines):
        if number == 0:
            click.echo(f"\n{title}")
        print_line(" ", *line)
