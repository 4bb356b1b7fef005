"""`holdfast activity`: what operators did."""

from typing import TYPE_CHECKING

import click

from service.cli.environment import env_file, with_engine
from service.cli.terminal import Column, json_option, print_json, print_table, shown_time

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.queries.actions import ActionPage
    from service.queries.views import ActionView

COLUMNS = (Column("time", whole=True), Column("who"), Column("what", whole=True), Column("to"))


@click.command()
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@json_option
@env_file
def activity(limit: int, *, as_json: bool) -> None:
    """List what operators did, newest first: who, when, to what."""
    page = with_engine(lambda engine: _collect(engine, limit))
    if as_json:
        print_json(page)
        return
    rows = ((shown_time(each.at), each.actor, each.action, _object(each)) for each in page.actions)
    print_table(COLUMNS, rows)


def _object(action: "ActionView") -> str:
    ids = (
        ("e-mail", action.email_id),
        ("quarantine", action.quarantine_id),
        ("retry of many", action.bulk_retry_id),
    )
    return ", ".join(f"{name} {number}" for name, number in ids if number is not None)


async def _collect(engine: "AsyncEngine", limit: int) -> "ActionPage":
    from service.queries.actions import list_actions
    from service.queries.pages import PageFilter

    page = await list_actions(engine, PageFilter(limit=min(200, limit)))
    found = list(page.actions)
    while page.next_cursor and len(found) < limit:
        more = PageFilter(limit=min(200, limit - len(found)), cursor=page.next_cursor)
        page = await list_actions(engine, more)
        found += page.actions
    return page.model_copy(update={"actions": found})
