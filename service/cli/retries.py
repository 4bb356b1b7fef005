"""`holdfast retries`: the retries of many, how far each is, and how to end one."""

import click

from service.cli.bulk import end, outcomes, print_retry
from service.cli.bulk import wait as wait_for
from service.cli.environment import actor, env_file, with_engine, with_resources
from service.cli.terminal import Column, json_option, print_facts, print_json, print_table, shown_time

COLUMNS = (
    Column("id", whole=True),
    Column("begun", whole=True),
    Column("status", whole=True),
    Column("queued", whole=True),
    Column("of", whole=True),
    Column("became", least_width=100),
    Column("by", least_width=120),
    Column("what", whole=True),
    Column("filter"),
)
ID = click.IntRange(0, 2**63 - 1)


@click.group()
def retries() -> None:
    """Look at retries of many e-mails, or of their syncs, which workers carry out; wait for one, or cancel it."""


@retries.command("list")
@json_option
@env_file
def list_(*, as_json: bool) -> None:
    """List the newest."""
    from service.queries.retries import list_retries

    page = with_engine(list_retries)
    if as_json:
        print_json(page)
        return
    rows = (
        (
            each.id,
            shown_time(each.created_at),
            each.status,
            each.retried,
            f"{each.planned}{'+' if each.planned_capped else ''}",
            outcomes(each),
            each.actor,
            each.what,
            each.filter.model_dump_json(exclude_none=True),
        )
        for each in page.retries
    )
    print_table(COLUMNS, rows)


@retries.command()
@click.argument("retry_id", metavar="ID", type=ID)
@json_option
@env_file
def show(retry_id: int, *, as_json: bool) -> None:
    """Show how far one is, and what became of the e-mails."""
    from service.queries.retries import get_retry

    seen = with_engine(lambda engine: get_retry(engine, retry_id))
    if as_json:
        print_json(seen)
        return
    print_retry(seen)
    facts = (
        ("begun", shown_time(seen.created_at)),
        ("by", seen.actor),
        ("what", seen.what),
        ("filter", seen.filter.model_dump_json(exclude_none=True)),
        ("at most", f"{seen.per_second} a second"),
        ("looked back to", shown_time(seen.reached) if seen.reached else None),
        ("all queued", shown_time(seen.finished_at) if seen.finished_at else None),
        ("all ended", shown_time(seen.settled_at) if seen.settled_at else None),
    )
    print_facts(facts)


@retries.command()
@click.argument("retry_id", metavar="ID", type=ID)
@json_option
@env_file
def wait(retry_id: int, *, as_json: bool) -> None:
    """Wait until no e-mail of one is queued or running; Ctrl-C ends the waiting alone.

    Exits with 0 if all are repaired (synced, of a retry of syncs), 3 if some failed again, and 1 if it is not known: it was
    cancelled, another retry took over an e-mail, or Postgres is away.
    """
    from service.queries.retries import get_retry

    wait_for(retry_id)
    seen = with_engine(lambda engine: get_retry(engine, retry_id))
    print_json(seen) if as_json else print_retry(seen)
    end(seen)


@retries.command()
@click.argument("retry_id", metavar="ID", type=ID)
@json_option
@env_file
def cancel(retry_id: int, *, as_json: bool) -> None:
    """Queue no more of one; what is queued already is worked on."""
    from service.operate import bulk_retry
    from service.queries.retries import get_retry

    with_resources(lambda res: bulk_retry.cancel(res, retry_id, actor()))
    seen = with_engine(lambda engine: get_retry(engine, retry_id))
    print_json(seen) if as_json else print_retry(seen)
