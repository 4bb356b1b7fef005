"""`holdfast emails`: list them, look at one, run one again."""

import sys
from typing import TYPE_CHECKING

import click

from service.cli.environment import actor, env_file, with_engine, with_resources
from service.cli.terminal import print_json, print_table

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
    from service.queries.emails import EmailFilter, list_emails

    wanted = EmailFilter.model_validate({"status": status, "ticket": ticket, "limit": limit})
    page = with_engine(lambda engine: list_emails(engine, wanted))
    rows = (
        (
            email.id,
            email.zendesk_ticket_id,
            email.from_email or "",
            email.subject or "",
            email.processing_status,
            email.retry_count,
            f"{email.received_at:%Y-%m-%d %H:%M:%S}",
            email.processing_error or "",
        )
        for email in page.emails
    )
    columns = ("id", "ticket", "from", "subject", "status", "retries", "received", "reason")
    print_table(columns, rows, whole=("id", "status", "received"))


@emails.command()
@click.argument("email_id", type=ID)
@env_file
def show(email_id: int) -> None:
    """Show all that is known of one e-mail, as JSON."""
    from service.queries.emails import get_email

    print_json(with_engine(lambda engine: get_email(engine, email_id)))


@emails.command("retry")
@click.argument("email_ids", type=ID, nargs=-1, required=True)
@env_file
def retry_(email_ids: tuple[int, ...]) -> None:
    """Run finished e-mails again; files that are stored are not fetched again."""
    from service.errors import Rejected
    from service.recovery.retry import retry

    async def run(res: "Resources") -> bool:
        good = True
        for email_id in email_ids:
            try:
                await retry(res, email_id, actor())
            except Rejected as exc:
                good = False
                click.echo(exc.message, err=True)
            else:
                click.echo(f"{email_id} queued")
        return good

    if not with_resources(run):
        sys.exit(1)
