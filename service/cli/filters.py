"""Options that choose e-mails, the fields of `Selection`; and the pages of a list."""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from service.cli.times import TIME, TIME_HELP

if TYPE_CHECKING:
    from pydantic import BaseModel

    from service.queries.pages import PageFilter

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound="BaseModel")
P = TypeVar("P", bound="BaseModel")
W = TypeVar("W", bound="PageFilter")
MOST_ID = 2**63 - 1
MOST_PER_PAGE = 200
STATUSES = click.Choice(["received", "queued", "processing", "completed", "failed"])
SYNC_STATUSES = click.Choice(["not_applicable", "pending", "synced", "failed", "unsynced"])
ORIGINS = click.Choice(["webhook", "lookup", "backfill"])
ZENDESK_STATES = click.Choice(["deleted", "permanently_deleted", "redacted", "private", "merged", "any"])


class Listing(click.Group):
    """A group that lists if no command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_help = bool(args) and args[0] in ctx.help_option_names
        # The group has no options of its own. While a shell completes, nothing is named yet.
        if not (ctx.resilient_parsing or is_help) and (not args or args[0].startswith("-")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


class Id(click.ParamType[int]):
    """The number of an e-mail, a webhook, or whatever else a list shows."""

    name = "id"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if not re.fullmatch("[0-9]{1,19}", text) or int(text) > MOST_ID:
            self.fail(f"{text!r} is no ID: it must be a number, as lists show it.", param, ctx)
        return int(text)


ID = Id()

_OPTIONS = {
    "ids": click.option("--ids", help="Numbers of e-mails, with commas between them."),
    "q": click.option(
        "--text", "q", help="Words in any order: of ticket, subject, people, text, file names, error."
    ),
    "status": click.option("--status", type=STATUSES, help="State of the job."),
    "sync_status": click.option(
        "--sync-status", type=SYNC_STATUSES, help="State of the sync; unsynced: failed or not_applicable."
    ),
    "origin": click.option("--origin", type=ORIGINS, help="What made the e-mail."),
    "zendesk_state": click.option(
        "--zendesk-state", type=ZENDESK_STATES, help="What Zendesk did with it since; any: anything."
    ),
    "dismissed": click.option(
        "--dismissed/--not-dismissed", "dismissed", default=None, help="Dismissed by a person, or not."
    ),
    "ticket": click.option("--ticket", help="Zendesk ticket."),
    "sender": click.option("--sender", help="Address of the sender."),
    "error_code": click.option("--error-code", help="Error code; `none`: failed without a code."),
    "sync_error_code": click.option("--sync-error-code", help="Error code of the sync."),
    "host": click.option("--host", help="Host whose file failed; `none`: no host."),
    "received_after": click.option(
        "--received-after",
        type=TIME,
        help=f"Received at this time or later, {TIME_HELP}.",
    ),
    "received_before": click.option("--received-before", type=TIME, help="Received before this time."),
}


_saved = click.option("--saved", metavar="NAME", help="A saved filter; other options replace its fields.")


def filters(*names: str) -> Callable[[F], F]:
    """Add the options of these fields, or of all and --saved, to a command; the command gets them as **chosen."""

    def add(command: F) -> F:
        if not names:
            command = _saved(command)
        for name in reversed(names or tuple(_OPTIONS)):
            command = _OPTIONS[name](command)
        return command

    return add


def selection(kind: type[S], chosen: Mapping[str, object], **more: object) -> S:
    """Make a filter of the options; a value that is not valid is a usage error, as is an unknown saved filter."""
    from pydantic import ValidationError

    given = {name: value for name, value in chosen.items() if value is not None}
    saved = given.pop("saved", None)
    fields = {} if saved is None else _saved_fields(str(saved))
    try:
        return kind.model_validate({**fields, **given, **more})
    except ValidationError as exc:
        error = exc.errors(include_url=False)[0]
        name = {"q": "text"}.get(str(error["loc"][0]), str(error["loc"][0])).replace("_", "-")
        message = error["msg"].removeprefix("Value error, ")
        raise click.BadParameter(message, param_hint=f"--{name}") from None


def _saved_fields(name: str) -> Mapping[str, object]:
    from service.cli.backends.choice import with_backend

    page = with_backend(lambda backend: backend.saved_filters())
    for each in page.filters:
        if each.name == name:
            return each.filter.model_dump(exclude_none=True)
    message = "no filter has this name: `holdfast emails filters` lists them."
    raise click.BadParameter(message, param_hint="--saved")


async def collect(
    fetch: Callable[[W], Awaitable[P]],
    wanted: W,
    limit: int | None,
    items: str,
    progress: Callable[[int, P], None] = lambda _found, _page: None,
) -> P:
    """Read page after page until `limit` items are found (None: all), or no more; return them as one page.

    A page may end early. `items` names the field that holds the items; totals are those of the first page.
    """
    first: P | None = None
    found: list[Any] = []
    while True:
        most = MOST_PER_PAGE if limit is None else min(MOST_PER_PAGE, limit - len(found))
        page: Any = await fetch(wanted.model_copy(update={"limit": most}))
        first = first or page
        found += getattr(page, items)
        if page.next_cursor is None or len(found) == limit:
            break
        wanted = wanted.model_copy(update={"cursor": page.next_cursor})
        progress(len(found), page)
    totals = {name: getattr(first, name) for name in ("total", "total_capped") if hasattr(first, name)}
    return page.model_copy(update={items: found, **totals})  # type: ignore[no-any-return] # the type of `fetch`
