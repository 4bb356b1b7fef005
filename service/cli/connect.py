"""`holdfast connect`: make our webhook and trigger at Zendesk, put them back, or remove them."""

import sys
from typing import TYPE_CHECKING

import click

from service.cli.environment import env_file, with_resources
from service.errors import SettingsError
from service.formatting import printable

if TYPE_CHECKING:
    from service.connect.apply import Removal
    from service.connect.plan import Plan
    from service.connect.record import RecordedConnection
    from service.resources import Resources
    from service.zendesk.client import ZendeskClient

# The longest wait for the first e-mail.
WAIT_SECONDS = 600.0
PAUSE_SECONDS = 1.0


@click.command()
@click.option(
    "--url",
    metavar="https://HOST",
    help="Public address of this Holdfast; by default the recorded one, or PUBLIC_URL.",
)
@click.option("--plan", "only_plan", is_flag=True, help="Only show the plan.")
@click.option("--yes", is_flag=True, help="Do not ask; needed without a terminal.")
@click.option("--repair", is_flag=True, help="Put back what was changed at Zendesk.")
@click.option("--remove", "is_removal", is_flag=True, help="Delete the trigger and the webhook at Zendesk.")
@click.option(
    "--condition",
    type=click.Choice(["mail", "any"]),
    help="Comments that the trigger announces: those by e-mail (mail), or all.  [default: mail]",
)
@click.option("--wait/--no-wait", "waits", default=True, help="Wait for the first e-mail after a change.")
@env_file
def connect(  # noqa: PLR0913 one for each option
    *,
    url: str | None,
    only_plan: bool,
    yes: bool,
    repair: bool,
    is_removal: bool,
    condition: str | None,
    waits: bool,
) -> None:
    """Make the webhook and the trigger at Zendesk.

    The command shows its plan before it changes anything. It finds an existing webhook by its address, and has Zendesk test
    it; nothing has to be copied. A second run changes nothing. The credentials need an administrator.

    Exits with 1 if something at Zendesk was changed since, which --repair puts back.
    """
    if not (only_plan or yes or sys.stdin.isatty()):
        raise click.UsageError("No terminal: add --yes, or --plan.")
    if is_removal:
        _remove(url, only_plan=only_plan, yes=yes)
        return
    newest, plan = with_resources(lambda res: _plan(res, url, condition, repair=repair))
    if plan.held_back:
        sys.exit(1)
    if only_plan:
        return
    # Asked outside the event loop, where Ctrl-C ends a question.
    if plan.steps and not yes:
        click.confirm("Go on?", abort=True, err=True)
    with_resources(lambda res: _apply(res, plan))
    click.echo("Connected." if plan.steps else "Nothing had to be changed.")
    if waits and plan.steps:
        _wait(newest)


async def _plan(
    res: "Resources", url: str | None, condition: str | None, *, repair: bool
) -> tuple[int, "Plan"]:
    """Make and print the plan; return the id of the newest e-mail, too."""
    from service.connect import record
    from service.connect.arrivals import newest_email
    from service.connect.calls import CONNECT_SCOPE
    from service.connect.plan import Wish, make_plan
    from service.zendesk.rules import is_same_address

    known = await res.run(lambda conn: record.read(conn, record.account_of(res)))
    announces_all = (condition or (known.condition if known else "mail")) == "any"
    wish = Wish(_endpoint(res, url, known), "any" if announces_all else "mail", repair)
    newest = await res.run(newest_email)
    async with res.zendesk.with_scope(CONNECT_SCOPE) as client:
        plan = await make_plan(res, client, wish)
    _print(res, plan)
    own = res.settings.public_url
    if url is None and own and not is_same_address(_endpoint(res, own, None), wish.endpoint):
        click.echo(f"PUBLIC_URL is another address: --url {own} connects it.")
    return newest, plan


async def _apply(res: "Resources", shown: "Plan") -> None:
    """Carry out the plan that was shown, unless Zendesk has changed since."""
    from service.connect.apply import apply
    from service.connect.calls import CONNECT_SCOPE
    from service.connect.plan import make_plan

    async with res.zendesk.with_scope(CONNECT_SCOPE) as client:
        plan = await make_plan(res, client, shown.wish)
        if plan.steps != shown.steps:
            click.echo("Zendesk has changed since the plan was made: run this again.", err=True)
            sys.exit(1)
        await apply(res, client, plan, _say)


def _remove(url: str | None, *, only_plan: bool, yes: bool) -> None:
    from service.connect.apply import plan_removal, remove
    from service.connect.calls import CONNECT_SCOPE

    async def look(res: "Resources", client: "ZendeskClient") -> "Removal":
        from service.connect import record

        known = await res.run(lambda conn: record.read(conn, record.account_of(res)))
        return await plan_removal(res, client, _endpoint(res, url, known))

    async def show(res: "Resources") -> "Removal":
        async with res.zendesk.with_scope(CONNECT_SCOPE) as client:
            return await look(res, client)

    async def carry_out(res: "Resources") -> None:
        async with res.zendesk.with_scope(CONNECT_SCOPE) as client:
            found = await look(res, client)
            if (found.triggers, found.webhooks) != (shown.triggers, shown.webhooks):
                click.echo("Zendesk has changed since the plan was made: run this again.", err=True)
                sys.exit(1)
            await remove(res, client, found, _say)

    shown = with_resources(show)
    for line in (*shown.notes, *shown.lines):
        _say(line)
    if only_plan:
        return
    if shown.lines and not yes:
        click.confirm("Go on? No e-mail is announced any more after that.", abort=True, err=True)
    with_resources(carry_out)
    click.echo("Removed." if shown.lines else "Zendesk has no webhook to this address.")


def _endpoint(res: "Resources", url: str | None, known: "RecordedConnection | None") -> str:
    """Return the address of our webhook; raises SettingsError and UsageError."""
    from yarl import URL

    from service.config.validators import is_web_url
    from service.zendesk.rules import endpoint_of

    settings = res.settings
    if url is None and known is not None:
        return known.endpoint
    address = url or settings.public_url
    if address is None:
        raise SettingsError("The public address of this Holdfast is not known: add --url, or set PUBLIC_URL")
    if not is_web_url(address) or URL(address).raw_query_string or URL(address).user:
        raise click.UsageError("--url is not an address such as https://holdfast.acme.example.")
    if not (address.startswith("https://") or settings.download_private_networks):
        raise click.UsageError("Zendesk sends webhooks only to addresses that begin with https://.")
    is_ours = settings.public_url is not None and URL(settings.public_url).host == URL(address).host
    return endpoint_of(address, settings.path_prefix if is_ours else "")


def _print(res: "Resources", plan: "Plan") -> None:
    standing = plan.standing
    host = res.account.url.host if res.account.url else ""
    click.echo(f"Signed in to {host} as user {standing.user_id} ({printable(standing.role)}).")
    for note in plan.notes:
        click.echo(printable(note))
    if plan.held_back:
        click.echo("Somebody changed the connection at Zendesk:", err=True)
        for drift in plan.held_back:
            click.echo(f"  - {printable(drift.text)}", err=True)
        click.echo("`holdfast connect --repair` puts it back.", err=True)
        return
    if plan.steps:
        click.echo("Holdfast will:")
    for number, step in enumerate(plan.steps, 1):
        click.echo(f"{number:>3}. {printable(step.text)}")
    if not plan.steps:
        click.echo(f"Webhook and trigger are as they should be: {plan.wish.endpoint}")


def _say(line: str) -> None:
    click.echo(printable(line))


def _wait(after: int) -> None:
    """Wait until an e-mail that came after this one is finished; Ctrl-C ends the wait."""
    import asyncio

    from service.connect.arrivals import FirstEmail, first_email

    async def wait(res: "Resources") -> FirstEmail | None:
        click.echo("Send an e-mail to your support address. Waiting for it; Ctrl-C ends the wait.")
        shown = ""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    email = await res.run(lambda conn: first_email(conn, after))
                    if email is not None and email.line != shown:
                        shown = email.line
                        click.echo(printable(shown))
                    if email is not None and email.is_finished:
                        return email
                    await asyncio.sleep(PAUSE_SECONDS)
        except TimeoutError:
            return None

    try:
        email = with_resources(wait)
    except KeyboardInterrupt:
        click.echo("The wait is ended; the connection stays.")
        return
    if email is None:
        minutes = int(WAIT_SECONDS // 60)
        click.echo(
            f"No e-mail was finished within {minutes} minutes: docs/troubleshooting.md says what to check.",
            err=True,
        )
        sys.exit(1)
