"""`holdfast emails`: list them, look at one, run one again."""

import json
import sys
from typing import TYPE_CHECKING

import click

from service.cli.environment import env_file, with_resources

if TYPE_CHECKING:
    from service.resources import Resources

ID = click.IntRange(0, 2**63 - 1)
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
    from rich.table import Table
    from rich.text import Text

    from service.queries.emails import EmailFilter, list_emails

    wanted = EmailFilter.model_validate({"status": status, "ticket": ticket, "limit": limit})
    page = with_resources(lambda res: list_emails(res.engine, wanted))
    table = Table("id", "ticket", "from", "subject", "status", "retries", "received", "reason")
    for column in (table.columns[0], table.columns[4], table.columns[6]):
        column.no_wrap = True
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
        table.add_row(*(Text(_printable(str(cell))) for cell in cells))
    Console().print(table)


@emails.command()
@click.argument("email_id", type=ID)
@env_file
def show(email_id: int) -> None:
    """Show all that is known of one e-mail, as JSON."""
    from service.queries.emails import get_email

    email = with_resources(lambda res: get_email(res.engine, email_id))
    click.echo(json.dumps(email.model_dump(mode="json"), indent=2))


@emails.command()
@click.argument("email_ids", type=ID, nargs=-1, required=True)
@env_file
def retry(email_ids: tuple[int, ...]) -> None:
    """Run finished e-mails again; files that are stored are not fetched again."""
    from service import recovery
    from service.errors import Rejected

    async def run(res: "Resources") -> bool:
        good = True
        for email_id in email_ids:
            try:
                await recovery.retry(res, email_id)
            except Rejected as exc:
                good = False
                click.echo(exc.message, err=True)
            else:
                click.echo(f"{email_id} queued")
        return good

    if not with_resources(run):
        sys.exit(1)


def _printable(text: str) -> str:
    """Leave out what would steer a terminal, or turn the direction of writing."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
