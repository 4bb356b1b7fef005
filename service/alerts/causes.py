"""Everything that may be the matter, looked for in one pass over the record."""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from service.alerts import credentials, failures, quarantine, reconciliation, silence, syncs, workers
from service.alerts.finding import Finding, Open, clean, clock, number
from service.alerts.record import Pass
from service.config.settings import Settings
from service.postgres.pool import ADVICE, Usage, usage


async def look(
    conn: AsyncConnection, settings: Settings, turn: Pass, opened: Open, *, refused: bool = False
) -> list[Finding]:
    """Find what is the matter now; each statement reads a bounded number of rows by an index.

    `refused` says that Postgres refused this process a connection within the last minute.
    """
    newest, now = await silence.newest_arrival(conn)
    limit = timedelta(seconds=settings.alert_waiting_seconds)
    findings = [
        *await failures.find(conn, opened),
        *await quarantine.find(conn, opened),
        *await workers.find_waiting(conn, turn.known_id, limit, now),
        *await workers.find_missing(conn, now),
        *credentials.find_ending(settings),
        *await credentials.find_waiting(conn, limit, now),
        *await silence.find(conn, newest, now, settings.alert_silence_seconds, opened),
        *await reconciliation.find(conn, settings.reconcile_hours),
        *_of_connections(await usage(conn), refused=refused),
    ]
    if settings.sync_url:
        findings += await syncs.find(conn, limit, now)
    bad_at = turn.bad_signature_at
    # Whatever came after them had a good signature: of the others nothing is kept.
    if (
        bad_at
        and turn.bad_signatures >= settings.alert_signature_failures
        and not (newest and newest > bad_at)
    ):
        detail = (
            f"{number(turn.bad_signatures, 'webhook')} in a row had no good signature"
            f" ({clean(turn.bad_signature_code or '', 50)}), the last at {clock(bad_at)}.\n"
            "Compare ZENDESK_WEBHOOK_SECRETS with the signing secret of the webhook in Zendesk."
        )
        findings.append(
            Finding("signatures", "", turn.bad_signatures, "Webhooks have no good signature", detail)
        )
    return findings


def _of_connections(now: Usage, *, refused: bool) -> list[Finding]:
    """Find that Postgres has no connection left for a release or a command."""
    if not (refused or now.is_full):
        return []
    said = "Postgres refused connections within the last minute." if refused else "Postgres has none left."
    detail = f"{said} Connections: {clean(str(now))}.\nWhat to do: {ADVICE}."
    count = sum(now.held.values())
    return [Finding("connections", "", count, "Postgres has too few connections", detail)]
