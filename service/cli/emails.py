"""`holdfast emails`: list them, look at one, run one again."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import click

from service.cli.environment import env_file
from service.config import read_settings

if TYPE_CHECKING:
    from service.resources import Resources

T = TypeVar("T")
STATUSES = click.Choice(["received", "queued", "processing", "completed", "failed"])


@click.group()
def emails() -> None:
    """Look at e-mails, and run them again."""


@emails.command("list")
@click.option("--status", type=STATUSES)
@click.option("--ticket", help="Only this Zendesk ticket.")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True)
@env_file
def list_(status: str | None, ticket: str | None, limit: int) -> None:
    """List e-mails, newest first."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from service.queries.emails import EmailFilter, list_emails

    wanted = EmailFilter.model_validate({"status": status, "ticket": ticket, "limit": limit})
    page = _with_resources(lambda res: list_emails(res.engine, wanted))
    table = Table("id", "ticket", "from", "subject", "status", "retries", "received", "reason")
    for email in page.emails:
        cells = (
            email.id,
            email.zendesk_ticket_id,
            email.from_email or "",
            email.subject or "",
            email.processing_status,
            email.retry_count,
            f"{email.received_at:%Y-%m-%d %H:%M:%S}",
            email.processing_error or "",
        )
        table.add_row(*(escape(str(cell)) for cell in cells))
    Console().print(table)


@emails.command()
@click.argument("email_id", type=int)
@env_file
def show(email_id: int) -> None:
    """Show all that is known of one e-mail, as JSON."""
    from service.queries.emails import get_email

    email = _with_resources(lambda res: get_email(res.engine, email_id))
    click.echo(json.dumps(email.model_dump(mode="json"), indent=2))


@emails.command()
@click.argument("email_ids", type=int, nargs=-1, required=True)
@env_file
def retry(email_ids: tuple[int, ...]) -> None:
    """Run finished e-mails again; files that are stored are not fetched again."""
    from service import recovery

    for email_id in email_ids:
        _with_resources(partial(recovery.retry, email_id=email_id))
        click.echo(f"{email_id} queued")


def _with_resources(work: "Callable[[Resources], Awaitable[T]]") -> T:
    """Run one piece of work over the service's resources; its errors are one line, exit code 1."""
    from service.errors import HoldfastError
    from service.resources import NEEDED, open_resources

    async def run() -> T:
        async with open_resources(read_settings(*NEEDED)) as res:
            return await work(res)

    try:
        return asyncio.run(run())
    except HoldfastError as exc:
        click.echo(exc.message, err=True)
        sys.exit(1)
