"""`holdfast emails list|show|holding`: find e-mails, and look at one."""

import sys
from typing import TYPE_CHECKING

import click

from service.cli.environment import env_file, with_engine
from service.cli.export import export
from service.cli.filters import filters, selection
from service.cli.page import print_email
from service.cli.reparse import reparse
from service.cli.retry import retry
from service.cli.sync import sync
from service.cli.terminal import (
    Column,
    json_option,
    print_bytes,
    print_json,
    print_table,
    progress,
    shown_time,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.queries.emails import EmailFilter
    from service.queries.views import EmailPage, EmailView

ID = click.IntRange(0, 2**63 - 1)
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


@click.group()
def emails() -> None:
    """Look at e-mails, run or sync them again, take them out."""


emails.add_command(retry)
emails.add_command(reparse)
emails.add_command(sync)
emails.add_command(export)


@emails.command("list")
@filters()
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@json_option
@env_file
def list_(limit: int, *, as_json: bool, **chosen: str | None) -> None:
    """List e-mails, newest first.

    Into a pipe, a line for each: id, ticket, sender, subject, status, retries, time, sync, reason, divided by tabs.
    """
    from service.queries.emails import EmailFilter

    wanted = selection(EmailFilter, chosen)
    page = with_engine(lambda engine: _collect(engine, wanted, limit))
    if as_json:
        print_json(page)
        return
    print_table(COLUMNS, map(_row, page.emails))
    if page.next_cursor and sys.stdout.isatty():
        count = f"{page.total:,}{'+' if page.total_capped else ''}" if page.total else "more"
        click.echo(
            f"Shown are {len(page.emails):,} of {count}: --limit shows more, filters choose.", err=True
        )


@emails.command()
@click.argument("email_id", metavar="ID", type=ID)
@click.option("--raw", is_flag=True, help="Print the body of the webhook as it came, byte for byte.")
@json_option
@env_file
def show(email_id: int, *, raw: bool, as_json: bool) -> None:
    """Show all that is known of one e-mail: its state, times, files, attempts, and what was done to it."""
    from service.queries.emails import get_email, get_request

    if raw:
        import base64

        request = with_engine(lambda engine: get_request(engine, email_id))
        print_bytes(base64.b64decode(request.body_base64))
        return
    email = with_engine(lambda engine: get_email(engine, email_id))
    if as_json:
        print_json(email)
    else:
        print_email(email)


@emails.command()
@click.argument("sha256")
@json_option
@env_file
def holding(sha256: str, *, as_json: bool) -> None:
    """List the e-mails that have a file of this content, newest first."""
    from service.queries.emails import list_holders

    page = with_engine(lambda engine: list_holders(engine, sha256.lower()))
    if as_json:
        print_json(page)
        return
    columns = (Column("e-mail", whole=True), Column("file", whole=True), Column("bytes"), Column("name"))
    print_table(
        columns, ((each.email_id, each.position, each.size, each.file_name or "") for each in page.holders)
    )


async def _collect(engine: "AsyncEngine", wanted: "EmailFilter", limit: int) -> "EmailPage":
    """Follow the pages, of which one may end early, until there are so many, or no more."""
    from service.queries.emails import list_emails

    first: EmailPage | None = None
    found: list[EmailView] = []
    with progress("Looking", limit) as tell:
        while True:
            page = await list_emails(
                engine, wanted.model_copy(update={"limit": min(200, limit - len(found))})
            )
            first = first or page
            found += page.emails
            if page.next_cursor is None or len(found) == limit:
                break
            wanted = wanted.model_copy(update={"cursor": page.next_cursor})
            tell(len(found), f"back to {shown_time(page.searched_to)}" if page.searched_to else "")
    return page.model_copy(update={"emails": found, "total": first.total, "total_capped": first.total_capped})


def _row(email: "EmailView") -> tuple[object, ...]:
    return (
        email.id,
        email.zendesk_ticket_id,
        email.from_email or "",
        email.subject or "",
        email.processing_status,
        email.retry_count,
        shown_time(email.received_at),
        _sync(email),
        email.processing_error or email.sync_error or email.error_code or "",
    )


def _sync(email: "EmailView") -> str:
    """Say where the sync stands, once there is something to be synced."""
    is_over = email.processing_status in {"completed", "failed"}
    return "" if email.sync_status == "not_applicable" or not is_over else email.sync_status
