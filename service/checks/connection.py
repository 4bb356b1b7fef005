"""Check our webhook and trigger at Zendesk."""

import asyncio

from service.checks.probe import SECONDS, Check, failed
from service.connect import drift, record, secrets
from service.errors import HoldfastError, Transient
from service.formatting import counted
from service.resources import Resources
from service.zendesk.rules import REPAIRABLE

NAME = "connection"
REPAIR = "`holdfast connect --repair` shows the changes, and puts them back"


async def check_connection(res: Resources) -> Check:
    """Ask Zendesk for drift of what `holdfast connect` made. Raises Transient for an error of Postgres alone."""
    try:
        async with asyncio.timeout(SECONDS):
            return await _ask(res)
    except TimeoutError as exc:
        return failed(NAME, exc, "check that this host may reach Zendesk, and run this again", SECONDS)
    except Transient as exc:
        if exc.code != "database_read_only":
            raise
        return Check(NAME, False, "not checked: Postgres accepts no writes", "see postgres")


async def _ask(res: Resources) -> Check:
    if not res.zendesk.has_login:
        return Check(NAME, True, "not checked without credentials")
    account = record.account_of(res)
    connection = await res.run(lambda conn: record.read(conn, account))
    if connection is None:
        made = "webhook and trigger were made by hand: `holdfast connect` adopts and watches them"
        return await _warn_of_secrets(res) or Check(NAME, True, made)
    try:
        found = await drift.check(res, connection)
    except HoldfastError as exc:
        if exc.code.startswith("database_"):
            raise
        unwatched, warning = _unwatched(exc), await _warn_of_secrets(res)
        if warning is None:
            return unwatched
        return Check(NAME, None, f"{warning.found}; {unwatched.found}", warning.advice)
    if not found:
        right = f"webhook and trigger are as they should be: {connection.endpoint}"
        return await _warn_of_secrets(res) or Check(NAME, True, right)
    is_repairable = any(each.code in REPAIRABLE for each in found)
    advice = REPAIR if is_repairable else "docs/troubleshooting.md has what to check, in order"
    return Check(NAME, False, drift.describe(found), advice)


def _unwatched(error: HoldfastError) -> Check:
    if error.code != "forbidden":
        return Check(NAME, None, f"Zendesk does not tell: {error.message}", "see zendesk")
    hidden = "Zendesk does not show webhook and trigger to these credentials"
    return Check(NAME, None, hidden, "only an administrator's credentials can watch them for changes")


async def _warn_of_secrets(res: Resources) -> Check | None:
    """Warn if signing secrets cannot be decrypted, or web has none: then it cannot verify Zendesk's webhooks."""
    if lost := await secrets.count_unreadable(res):
        unreadable = f"{counted(lost, 'signing secret')} cannot be decrypted: the credentials were changed"
        return Check(
            NAME, None, unreadable, "run `holdfast connect` with the credentials of an administrator"
        )
    if not await secrets.is_one_known(res):
        unknown = "no signing secret is known: web refuses each webhook until it is"
        return Check(
            NAME, None, unknown, "run `holdfast connect`, which keeps it, or set ZENDESK_WEBHOOK_SECRETS"
        )
    return None
