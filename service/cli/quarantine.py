"""`holdfast quarantine`: list, show and replay webhooks that were not parsed or not used."""

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import click

from service.cli.backends.choice import anywhere, with_backend
from service.cli.dismiss import dismiss_webhooks, shown_dismissal, undismiss_webhooks
from service.cli.environment import with_next_step
from service.cli.filters import ID, Listing, collect
from service.cli.terminal import (
    Column,
    json_option,
    print_bytes,
    print_facts,
    print_json,
    print_table,
)
from service.cli.times import shown_time
from service.formatting import printable

if TYPE_CHECKING:
    from typing import BinaryIO

    from service.cli.backends.port import Backend
    from service.queries.webhook_views import IgnoredView, QuarantineDetail, QuarantineView

COLUMNS = (
    Column("id", whole=True),
    Column("account", least_width=150),
    Column("invocation", least_width=150),
    Column("bytes", whole=True, least_width=100),
    Column("received", whole=True),
    Column("e-mail", whole=True, least_width=100),
    Column("code", whole=True),
    Column("reason"),
)
IGNORED_COLUMNS = (*COLUMNS[:-2], Column("type"))

ignored_option = click.option(
    "--ignored", is_flag=True, help="Events of unused types, which are stored beside the quarantine."
)


@click.group(cls=Listing)
def quarantine() -> None:
    """List, show, edit, replay or dismiss quarantined webhooks.

    Without a command, it lists them. Ignored ones can be listed, shown and replayed, too.
    """


quarantine.add_command(dismiss_webhooks)
quarantine.add_command(undismiss_webhooks)


@quarantine.command("list")
@ignored_option
@click.option("--replayed", is_flag=True, help="Only the replayed ones.")
@click.option("--dismissed", is_flag=True, help="Only the dismissed ones.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Most to list.")
@json_option
@anywhere
def list_(limit: int, *, ignored: bool, replayed: bool, dismissed: bool, as_json: bool) -> None:
    """List the webhooks that are not replayed yet, newest first."""
    from service.queries.webhooks import IgnoredFilter, QuarantineFilter

    if dismissed and (ignored or replayed):
        raise click.UsageError("--dismissed goes with neither --ignored nor --replayed.")
    if ignored:
        wanted = IgnoredFilter(replayed=replayed)
        events = with_backend(lambda backend: collect(backend.ignored, wanted, limit, "ignored"))
        print_json(events) if as_json else print_table(IGNORED_COLUMNS, map(_row, events.ignored))
        return
    chosen = QuarantineFilter(replayed=replayed, dismissed=dismissed)
    webhooks = with_backend(lambda backend: collect(backend.quarantined, chosen, limit, "quarantine"))
    print_json(webhooks) if as_json else print_table(COLUMNS, map(_row, webhooks.quarantine))


@quarantine.command()
@click.argument("kept_id", metavar="ID", type=ID)
@ignored_option
@click.option("--raw", is_flag=True, help="Print the original body, byte for byte.")
@json_option
@anywhere
def show(kept_id: int, *, ignored: bool, raw: bool, as_json: bool) -> None:
    """Show the original webhook, and why it was not parsed."""
    import base64

    webhook = with_backend(lambda backend: backend.kept(kept_id, "ignored" if ignored else "quarantined"))
    body = base64.b64decode(webhook.body_base64)
    if raw:
        print_bytes(body)
    elif as_json:
        print_json(webhook)
    else:
        columns = IGNORED_COLUMNS if ignored else COLUMNS
        print_facts(zip((column.name for column in columns), _row(webhook), strict=True))
        dismissal = getattr(webhook, "dismissal", None)  # an ignored event has none
        print_facts([("dismissed", dismissal and shown_dismissal(dismissal))])
        print_facts(
            [("late", "yes, the time of its signature was too far from ours" if webhook.late else None)]
        )
        click.echo()
        print_facts((str(name), value) for name, value in webhook.headers)
        click.echo()
        click.echo("\n".join(map(printable, webhook.body.splitlines())))


@quarantine.command()
@click.argument("kept_ids", metavar="[ID]...", type=ID, nargs=-1)
@ignored_option
@click.option(
    "--all", "everything", is_flag=True, help="All that are neither replayed nor dismissed yet, oldest first."
)
@click.option("--code", help="With --all: only those with this error code.")
@json_option
@anywhere
def replay(
    kept_ids: tuple[int, ...], *, ignored: bool, everything: bool, code: str | None, as_json: bool
) -> None:
    """Parse webhooks again, and make e-mails of them.

    This includes webhooks whose idempotency key belonged to another e-mail.
    """
    if everything == bool(kept_ids):
        raise click.UsageError("Give either IDs or --all.")
    if code is not None and (ignored or not everything):
        raise click.UsageError("--code needs --all, and does not go with --ignored.")

    async def run(backend: "Backend") -> Counter[str]:
        ids: Sequence[int] = kept_ids
        if everything:
            ids = await (backend.ignored_ids() if ignored else backend.quarantined_ids(code, dismissed=False))
        return await _replay(backend, ids, ignored=ignored, everything=everything, as_json=as_json)

    outcomes = with_backend(run)
    if everything and not as_json:
        names = ("accepted", "duplicate", "refused", *(["not used"] if ignored else []))
        click.echo(", ".join(f"{outcomes[name]} {name}" for name in names))
    if outcomes["unreadable"]:
        which = kept_ids[0] if len(kept_ids) == 1 else "ID"
        click.echo(
            f"`holdfast quarantine edit {which}` corrects one; if all come like this, correct the trigger's template in"
            " Zendesk.",
            err=True,
        )
    if outcomes["refused"]:
        sys.exit(1)


@quarantine.command()
@click.argument("kept_id", metavar="ID", type=ID)
@click.option(
    "--file",
    "source",
    type=click.File("rb"),
    help="Read the corrected body from this file, or from - for the input; else $EDITOR opens it.",
)
@json_option
@anywhere
def edit(kept_id: int, source: "BinaryIO | None", *, as_json: bool) -> None:
    """Replay a webhook with a body that you correct.

    The original stays on record as it came, beside the correction and your name.
    """
    body = source.read() if source else _edited(kept_id)
    if body is None:
        click.echo("Nothing was changed.", err=True)
        sys.exit(1)
    status, email_id = with_backend(lambda backend: backend.correct(kept_id, body))
    if as_json:
        print_json({"quarantine_id": kept_id, "status": status, "email_id": email_id}, indent=None)
    else:
        click.echo(_became(kept_id, status, email_id))


def _edited(kept_id: int) -> bytes | None:
    """Open the body in the editor; return the saved text, or None if nothing changed."""
    import base64

    async def read(backend: "Backend") -> "QuarantineDetail":
        webhook = await backend.kept(kept_id, "quarantined")
        return cast("QuarantineDetail", webhook)

    webhook = with_backend(read)
    if webhook.mistake:
        found = webhook.mistake
        click.echo(f"Line {found.line}, column {found.column}: {printable(found.reason)}.", err=True)
    if not sys.stdin.isatty():
        raise click.UsageError("No terminal: add --file.")
    original = base64.b64decode(webhook.body_base64)
    changed = click.edit(original, extension=".json")
    return None if changed == original else changed


def _became(kept_id: int, status: str, email_id: int | None) -> str:
    return f"{kept_id} {status}: e-mail {email_id}" if email_id else f"{kept_id} {status}"


def _row(webhook: "QuarantineView | IgnoredView") -> tuple[object, ...]:
    from service.queries.webhook_views import IgnoredView

    reason = (
        (webhook.event_type,) if isinstance(webhook, IgnoredView) else (webhook.error_code, webhook.error)
    )
    return (
        webhook.id,
        webhook.account_id or "",
        webhook.invocation_id or "",
        webhook.size,
        shown_time(webhook.received_at),
        webhook.email_id or "",
        *reason,
    )


async def _replay(
    backend: "Backend", kept_ids: Sequence[int], *, ignored: bool, everything: bool, as_json: bool
) -> Counter[str]:
    from service.errors import Rejected

    outcomes = Counter[str]()
    for kept_id in kept_ids:
        try:
            status, email_id = await backend.replay(kept_id, "ignored" if ignored else "quarantined")
        except Rejected as exc:
            if everything and ignored and exc.code == "event_not_used":  # as most events
                outcomes["not used"] += 1
                continue
            outcomes["refused"] += 1
            outcomes["unreadable"] += exc.status == 409 and not ignored
            click.echo(printable(with_next_step(exc)), err=True)
        else:
            outcomes[status] += 1
            if as_json:
                answer = {"status": status, "email_id": email_id}
                print_json({"ignored_id" if ignored else "quarantine_id": kept_id, **answer}, indent=None)
            else:
                click.echo(_became(kept_id, status, email_id))
    return outcomes
