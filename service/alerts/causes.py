"""All causes of alerts, checked in one pass over the tables."""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection
from yarl import URL

from service.alerts import (
    connection,
    credentials,
    evidence,
    failures,
    reconciliation,
    source,
    syncs,
    webhooks,
    workers,
)
from service.alerts.condition import Condition, OpenAlerts, clean
from service.alerts.record import Turn
from service.config.settings import Settings
from service.postgres.pool import ADVICE, Usage, usage
from service.zendesk.rate_limit import key_of


async def find_conditions(
    conn: AsyncConnection, settings: Settings, turn: Turn, opened: OpenAlerts, *, refused: bool = False
) -> list[Condition]:
    """Return all conditions that hold now; each statement reads a bounded number of rows by an index.

    `refused` tells that Postgres refused this process a connection within the last minute.
    """
    newest, now = await webhooks.newest_arrival(conn)
    limit = timedelta(seconds=settings.alert_waiting_seconds)
    account = settings.account_url and key_of(URL(settings.account_url))
    conditions = [
        *await failures.find(conn, opened),
        *await webhooks.find_quarantined(conn, opened),
        *await workers.find_waiting(conn, turn.known_id, limit, now),
        *await workers.find_missing(conn, now),
        *credentials.find_ending(settings),
        *await credentials.find_waiting(conn, limit, now),
        *await webhooks.find_silence(conn, newest, now, settings.alert_silence_seconds, opened),
        *webhooks.find_bad_signatures(turn, newest, settings.alert_signature_failures),
        # An account that is not ours any more is not checked: its drift would never end.
        *(drift for drift in await connection.find(conn) if drift.key == account),
        *await reconciliation.find(conn, settings.reconcile_hours),
        *await evidence.find(conn, settings.evidence_verify_hours),
        *await source.find(conn, settings),
        *_find_connections(await usage(conn), refused=refused),
    ]
    if settings.sync_url:
        conditions += [*await syncs.find(conn, limit, now), *await syncs.find_deletions(conn, now)]
    return conditions


def _find_connections(now: Usage, *, refused: bool) -> list[Condition]:
    """Report that Postgres has no connection left for a release or a command."""
    if not (refused or now.is_full):
        return []
    reason = "Postgres refused connections within the last minute." if refused else "Postgres has none left."
    detail = f"{reason} Connections: {clean(str(now))}.\nWhat to do: {ADVICE}."
    count = sum(now.held.values())
    return [Condition("connections", "", count, "Postgres has too few connections", detail)]
