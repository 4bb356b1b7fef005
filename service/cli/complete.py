"""`holdfast complete`: whether every e-mail that Zendesk has is kept, day by day."""

import sys
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING

import click

from service.cli.backends.choice import anywhere, with_backend
from service.cli.terminal import (
    Column,
    console,
    json_option,
    print_facts,
    print_json,
    print_line,
    print_table,
    style,
)
from service.cli.times import DAY, shown_time
from service.formatting import number

if TYPE_CHECKING:
    from service.cli.backends.port import Backend
    from service.queries.days import DayView
    from service.queries.source import Ledger, SourceFilter

NOT_COMPLETE = 3
DAY_COLUMNS = (
    Column("day", whole=True),
    *(Column(name, whole=True) for name in ("in Zendesk", "kept", "in work", "failed", "missing")),
    Column("not read", whole=True, least_width=80),
    Column("suspended", whole=True, least_width=80),
    Column("not in Zendesk", whole=True, least_width=100),
    Column("dismissed", whole=True, least_width=120),
    Column("account", least_width=120),
)
EMAIL_COLUMNS = (
    Column("state", whole=True),
    Column("ticket", whole=True),
    Column("comment", whole=True, least_width=80),
    Column("made", whole=True),
    Column("e-mail", whole=True),
    Column("error", least_width=100),
    Column("subject"),
)
LISTS = click.Choice(["open", "in_zendesk", "kept", "in_work", "failed", "dismissed", "missing", "unlisted"])


@click.command()
@click.option(
    "--day",
    type=DAY,
    help="Only this day (UTC), such as 2026-01-31 or yesterday, with a list of its e-mails.",
)
@click.option(
    "--list",
    "name",
    type=LISTS,
    default="open",
    show_default=True,
    help="With --day: what to list; open: missing or failed.",
)
@click.option("--before", type=DAY, help="The days before this one, instead of the newest.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="Most e-mails to list."
)
@json_option
@anywhere
def complete(day: date | None, name: str, before: date | None, limit: int, *, as_json: bool) -> None:
    """Tell whether every e-mail that Zendesk has is kept.

    Each row is a day: the e-mails that Zendesk lists, and how many of them are kept, in work, failed or missing.

    Exits with 0 if all are kept, 3 if not or if that is not known, and 1 if Holdfast cannot be reached. With --day, the
    exit code is about that day; a day is complete when it is over, and all of it was searched.
    """
    wanted = {"day": day, "before": before, **({"list": name} if day else {})}
    ledger = with_backend(lambda backend: _read(backend, _filter(wanted), limit))
    if as_json:
        print_json(ledger)
    else:
        _print(ledger, day)
    sys.exit(0 if _is_complete(ledger, has_day=day is not None) else NOT_COMPLETE)


def _filter(wanted: Mapping[str, object]) -> "SourceFilter":
    from pydantic import ValidationError

    from service.queries.source import SourceFilter

    try:
        return SourceFilter.model_validate(wanted)
    except ValidationError as exc:
        error = exc.errors(include_url=False)[0]
        message = error["msg"].removeprefix("Value error, ")
        raise click.BadParameter(message, param_hint=f"--{error['loc'][0]}") from None


async def _read(backend: "Backend", wanted: "SourceFilter", limit: int) -> "Ledger":
    """Read the ledger, and all pages of its list up to the limit."""
    ledger = await backend.ledger(wanted)
    found, cursor = [*(ledger.emails or ())], ledger.next_cursor
    while cursor is not None and len(found) < limit:
        page = await backend.ledger(wanted.model_copy(update={"cursor": cursor}))
        found += page.emails or ()
        cursor = page.next_cursor
    emails = None if ledger.emails is None else found[:limit]
    return ledger.model_copy(update={"emails": emails, "next_cursor": cursor})


def _is_complete(ledger: "Ledger", *, has_day: bool) -> bool:
    if has_day:
        return bool(ledger.days) and all(day.is_complete for day in ledger.days)
    return ledger.state == "complete"


def _print(ledger: "Ledger", day: date | None) -> None:
    from rich.text import Text

    if day is not None:
        sentences = [each.sentence for each in ledger.days] or ["This day was not searched at Zendesk yet."]
        print_line(f"{day}: {' '.join(sentences)}")
    console().print(
        Text(ledger.verdict, style("safe" if ledger.state == "complete" else "attention")), soft_wrap=True
    )
    for account in ledger.accounts:
        for sentence in account.sentences:
            print_line(sentence)
    if ledger.api_use:
        print_facts([("calls", ledger.api_use.sentence)])
    click.echo()
    print_table(DAY_COLUMNS, (_row(day) for day in ledger.days))
    if ledger.next_before:
        click.echo(f"\nOlder days: `holdfast complete --before {ledger.next_before}`", err=True)
    if ledger.emails:
        click.echo()
        print_table(
            EMAIL_COLUMNS,
            (
                (
                    each.state,
                    each.ticket_id,
                    each.comment_id,
                    shown_time(each.created_at),
                    each.email_id or "",
                    each.error_code or "",
                    each.subject or "",
                )
                for each in ledger.emails
            ),
        )
    if ledger.emails and ledger.next_cursor:
        click.echo("There are more: raise --limit.", err=True)


def _row(day: "DayView") -> tuple[str, ...]:
    counts = (day.in_zendesk, day.kept, day.in_work, day.failed, day.missing)
    unlisted = "" if day.unlisted is None else number(day.unlisted)
    return (
        day.day.isoformat(),
        *(number(count, day.capped and count > 0) for count in counts),
        number(day.unread),
        number(day.suspended, day.capped and day.suspended > 0),
        unlisted,
        number(day.dismissed, day.capped and day.dismissed > 0),
        day.account,
    )
