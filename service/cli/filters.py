"""The options by which commands choose e-mails: the fields of `Selection`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from service.postgres.selection import Selection

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound="Selection")
STATUSES = click.Choice(["received", "queued", "processing", "completed", "failed"])
SYNC_STATUSES = click.Choice(["not_applicable", "pending", "synced", "failed", "unsynced"])

_OPTIONS = {
    "q": click.option("--text", "q", help="A text in subject, sender or a file's name."),
    "status": click.option("--status", type=STATUSES),
    "sync_status": click.option(
        "--sync-status", type=SYNC_STATUSES, help="Where the sync stands; unsynced: failed or not_applicable."
    ),
    "ticket": click.option("--ticket", help="Only this Zendesk ticket."),
    "sender": click.option("--sender", help="Only from this address."),
    "error_code": click.option("--error-code", help="Only with this code; `none`: that failed without one."),
    "sync_error_code": click.option("--sync-error-code", help="Only those not synced with this code."),
    "host": click.option("--host", help="Only where a file of this host failed; `none`: of no host."),
    "received_after": click.option(
        "--received-after", metavar="TIME", help="At this time or later, as 2026-01-31T18:00; UTC."
    ),
    "received_before": click.option("--received-before", metavar="TIME", help="Before this time."),
}


def filters(*names: str) -> Callable[[F], F]:
    """Give a command the options of these fields, or of all; it gets them as **chosen."""

    def add(command: F) -> F:
        for name in reversed(names or tuple(_OPTIONS)):
            command = _OPTIONS[name](command)
        return command

    return add


def selection(kind: type[S], chosen: dict[str, str | None], **more: object) -> S:
    """Make a filter of what was typed; a value that cannot be meant is a usage error."""
    from pydantic import ValidationError

    given = {name: value for name, value in chosen.items() if value is not None}
    try:
        return kind.model_validate({**given, **more})
    except ValidationError as exc:
        error = exc.errors(include_url=False)[0]
        name = {"q": "text"}.get(str(error["loc"][0]), str(error["loc"][0])).replace("_", "-")
        message = error["msg"].removeprefix("Value error, ")
        raise click.BadParameter(message, param_hint=f"--{name}") from None
