"""`dismiss` and `undismiss` of `holdfast emails`, `failures`, `quarantine` and `reconcile`."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from service.cli.backends.choice import anywhere, with_backend
from service.cli.filters import ID, filters, selection
from service.cli.retry import BulkOptions, bulk_options, start_bulk_retry, wanted_emails
from service.cli.terminal import json_option, print_json
from service.cli.times import shown_time
from service.formatting import counted, printable

if TYPE_CHECKING:
    from service.cli.backends.port import Backend, Subject
    from service.queries.views import DismissalView

reason_option = click.option(
    "--reason", required=True, help="Why it needs nobody, at most 500 characters; others will read it."
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask; needed without a terminal.")


@click.command()
@click.argument("email_ids", metavar="[ID]...", type=ID, nargs=-1)
@reason_option
@click.option("--all", "everything", is_flag=True, help="All failed e-mails that match the filters.")
@filters()
@bulk_options
@anywhere
def dismiss(
    email_ids: tuple[int, ...],
    options: BulkOptions,
    *,
    reason: str,
    everything: bool,
    **chosen: str | bool | None,
) -> None:
    """Dismiss failed e-mails that nobody can repair.

    This also dismisses e-mails whose sync failed. They keep their state, and need no attention until they fail again.
    """
    from service.postgres.selection import BulkTask

    wanted = wanted_emails(email_ids, options, chosen, everything=everything)
    if everything:
        start_bulk_retry(wanted, options, BulkTask("dismiss", reason=reason))
        return
    ask(f"Dismiss {counted(len(email_ids), 'e-mail')}?", yes=options.yes)
    _dismiss_each("email", email_ids, reason, as_json=options.as_json)


@click.command()
@click.argument("email_ids", metavar="[ID]...", type=ID, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All dismissed e-mails that match the filters.")
@filters()
@bulk_options
@anywhere
def undismiss(
    email_ids: tuple[int, ...], options: BulkOptions, *, everything: bool, **chosen: str | bool | None
) -> None:
    """End dismissals: these e-mails need attention again."""
    from service.postgres.selection import BulkTask

    wanted = wanted_emails(email_ids, options, chosen, everything=everything)
    if everything:
        start_bulk_retry(wanted, options, BulkTask("undismiss"))
        return
    ask(f"Undismiss {counted(len(email_ids), 'e-mail')}?", yes=options.yes)
    _dismiss_each("email", email_ids, None, as_json=options.as_json)


@click.command("dismiss")
@click.argument("code")
@reason_option
@filters("host", "ticket", "sender", "q", "received_after", "received_before")
@bulk_options
@anywhere
def dismiss_group(code: str, options: BulkOptions, *, reason: str, **chosen: str | bool | None) -> None:
    """Dismiss all e-mails that failed with this error CODE.

    `none`: those that failed without a code.
    """
    from service.postgres.selection import BulkTask, Selection

    wanted = selection(Selection, {**chosen, "error_code": code}, status="failed")
    start_bulk_retry(wanted, options, BulkTask("dismiss", reason=reason))


@click.command("dismiss")
@click.argument("webhook_ids", metavar="[ID]...", type=ID, nargs=-1)
@reason_option
@click.option("--all", "everything", is_flag=True, help="All that wait in quarantine.")
@click.option("--code", help="With --all: only those with this error code.")
@yes_option
@json_option
@anywhere
def dismiss_webhooks(  # noqa: PLR0913 each an option
    webhook_ids: tuple[int, ...], *, reason: str, everything: bool, code: str | None, yes: bool, as_json: bool
) -> None:
    """Dismiss webhooks that nobody can parse.

    They stay in quarantine, byte for byte, and can still be replayed.
    """
    ids = _webhooks(webhook_ids, code, everything=everything, dismissed=False)
    ask(f"Dismiss {counted(len(ids), 'webhook')}?", yes=yes)
    _dismiss_each("webhook", ids, reason, as_json=as_json)


@click.command("undismiss")
@click.argument("webhook_ids", metavar="[ID]...", type=ID, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All dismissed webhooks.")
@click.option("--code", help="With --all: only those with this error code.")
@yes_option
@json_option
@anywhere
def undismiss_webhooks(
    webhook_ids: tuple[int, ...], *, everything: bool, code: str | None, yes: bool, as_json: bool
) -> None:
    """End dismissals of webhooks: they need attention again."""
    ids = _webhooks(webhook_ids, code, everything=everything, dismissed=True)
    ask(f"Undismiss {counted(len(ids), 'webhook')}?", yes=yes)
    _dismiss_each("webhook", ids, None, as_json=as_json)


@click.command("dismiss")
@click.argument("finding_ids", metavar="FINDING...", type=ID, nargs=-1, required=True)
@reason_option
@yes_option
@json_option
@anywhere
def dismiss_findings(finding_ids: tuple[int, ...], *, reason: str, yes: bool, as_json: bool) -> None:
    """Dismiss open differences.

    A dismissal ends when a later run finds the difference gone. `holdfast reconcile show` has their numbers.
    """
    ask(f"Dismiss {counted(len(finding_ids), 'finding')}?", yes=yes)
    _dismiss_each("finding", finding_ids, reason, as_json=as_json)


@click.command("undismiss")
@click.argument("finding_ids", metavar="FINDING...", type=ID, nargs=-1, required=True)
@yes_option
@json_option
@anywhere
def undismiss_findings(finding_ids: tuple[int, ...], *, yes: bool, as_json: bool) -> None:
    """End dismissals of differences: they need attention again."""
    ask(f"Undismiss {counted(len(finding_ids), 'finding')}?", yes=yes)
    _dismiss_each("finding", finding_ids, None, as_json=as_json)


def shown_dismissal(dismissal: "DismissalView") -> str:
    return f"{shown_time(dismissal.at)} by {dismissal.by}: {dismissal.reason}"


def ask(question: str, *, yes: bool) -> None:
    """Ask on the terminal, unless `yes`; without a terminal, end with a usage error."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("No terminal: add --yes.")
    click.confirm(question, abort=True, err=True)


def _webhooks(
    webhook_ids: tuple[int, ...], code: str | None, *, everything: bool, dismissed: bool
) -> Sequence[int]:
    if everything == bool(webhook_ids) or (code is not None and not everything):
        raise click.UsageError("Give either IDs or --all; --code needs --all.")
    if not everything:
        return webhook_ids
    return with_backend(lambda backend: backend.quarantined_ids(code, dismissed=dismissed))


def _dismiss_each(subject: "Subject", ids: Sequence[int], reason: str | None, *, as_json: bool) -> None:
    """Dismiss one after the other, or without a reason end their dismissals; exit with 1 if one was refused."""
    done = "undismissed" if reason is None else "dismissed"

    async def run(backend: "Backend") -> bool:
        from service.errors import Rejected

        is_good = True
        for each in ids:
            try:
                if reason is None:
                    await backend.undismiss(subject, each)
                else:
                    await backend.dismiss(subject, each, reason)
            except Rejected as exc:
                is_good = False
                click.echo(printable(exc.message), err=True)
            else:
                print_json({"id": each, "status": done}, indent=None) if as_json else click.echo(
                    f"{each} {done}"
                )
        return is_good

    if not with_backend(run):
        sys.exit(1)
