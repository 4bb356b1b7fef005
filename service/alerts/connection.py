"""Drift: our webhook or trigger at Zendesk was changed, or does not do its work."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts.condition import Condition, clean, clock
from service.postgres.source_tables import Connection
from service.zendesk.rules import REPAIRABLE

_ADVICE = {
    "circuit_breaker": "Look at the failed webhooks in Zendesk, and run `holdfast check`.",
    "invocations_failed": "Look at the failed webhooks in Zendesk, and run `holdfast check`.",
    "delivered_elsewhere": "Compare the address of the webhook with that of this service.",
    "body_without_comment": "Compare the body in Zendesk's trigger with docs/zendesk.md.",
}


async def find(conn: AsyncConnection) -> list[Condition]:
    """Report the drift that the latest hourly check found, one condition for each account."""
    wanted = select(Connection.account, Connection.drift, Connection.drift_since)
    rows = await conn.execute(wanted.where(Connection.drift_since.is_not(None)).order_by(Connection.account))
    conditions = []
    for account, drift, since in rows:
        codes = [each["code"] for each in drift]
        said = "\n".join(clean(each["text"], 500) for each in drift)
        detail = f"{said}\nFound at {clock(since)} for {account}. {' '.join(_advice(codes))}"
        summary = "The connection to Zendesk was changed or does not work"
        conditions.append(Condition("drift", account, len(codes), summary, detail))
    return conditions


def _advice(codes: list[str]) -> list[str]:
    """Return what to do, each advice once."""
    advice = [_ADVICE[code] for code in codes if code in _ADVICE]
    if REPAIRABLE.intersection(codes):
        advice.insert(0, "`holdfast connect --repair` shows the changes, and puts them back.")
    return list(dict.fromkeys(advice))
