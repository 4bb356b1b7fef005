"""How far each account was searched at Zendesk, and what stands in the way of it."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Literal

from pydantic import Field, ValidationError, computed_field
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from service.formatting import counted, number
from service.postgres.listed import statement
from service.postgres.rows import BRIEF_TEXT
from service.postgres.source_tables import searched_until
from service.queries.completeness import left_out_of, minutes_ago, written_second
from service.queries.remarks import COUNT_CAP, count_lost, count_suspended
from service.queries.views import View

MAX_ACCOUNTS = 20
MAX_BACKFILLS = 20  # per account
MAX_DIFFERENCES = 20
MAX_REFUSED = 50


class BackfillView(View):
    """A search that is not finished."""

    id: int
    kind: Literal["current", "history"]
    since: datetime
    until: datetime | None = Field(description="Null: until now")
    dry_run: bool
    leg: Literal["events", "lists"]
    reached: datetime | None = Field(description="All before it is found")
    started_at: datetime
    found: int = Field(description="E-mails that Zendesk lists")
    added: int = Field(description="Of these, those that were not on record")
    calls: int
    progress: float | None = Field(description="The searched share of its time, from 0 to 1; null if unknown")


class DriftView(View):
    """A difference between our webhook and trigger at Zendesk and what `holdfast connect` made."""

    code: str
    text: str


class ConnectionView(View):
    """Our webhook and trigger at Zendesk."""

    webhook_id: str
    trigger_id: str
    checked_at: datetime | None
    drift: Sequence[DriftView]
    drift_since: datetime | None
    error_code: str | None


class SearchProofView(View):
    """The tickets that an e-mail opened on one day, as Zendesk's own search finds them: each has an e-mail here."""

    day: date
    tickets: int = 0
    without_count: int = Field(
        0, description="Tickets without an e-mail here: of these, and those known from earlier days"
    )
    without: Sequence[str] = Field((), max_length=100, description="The first of them")
    capped: bool = Field(False, description="Whether there are more tickets than were asked for")
    error_code: str | None = Field(None, description="Why Zendesk could not be asked")


class RefusedView(View):
    """A ticket that Zendesk refuses to the credentials."""

    ticket_id: str
    since: datetime = Field(description="Its e-mails from here on are not known")
    refused_at: datetime
    asked_at: datetime = Field(description="When Zendesk was last asked for it")
    error_code: str
    error: str


class ProofView(View):
    """The daily comparison of all e-mails that Zendesk lists with those that are here."""

    at: datetime
    compared: int
    missing_count: int
    missing: Sequence[tuple[str, str]] = Field(
        max_length=1_000, description="Ticket and comment of the first missing ones"
    )
    search: SearchProofView | None = Field(
        None, description="The newest proved day's tickets by Zendesk's own search; null before the first one"
    )


class SourceView(View):
    """How far one account was searched."""

    account: str
    account_id: str | None
    leg: Literal["events", "lists"] = Field(
        description="How it is searched: the export of events, or lists of changed tickets"
    )
    leg_reason: str | None = Field(description="The error for which the export was left")
    leg_since: datetime
    complete_since: datetime | None = Field(
        description="All e-mails from here to the watermark are on record"
    )
    watermark: datetime | None
    left_out: datetime | None = Field(
        description="The second behind which completeness begins: of its events, Zendesk's export gave only a part."
        " Null if there is none"
    )
    unsearched_before: datetime | None = Field(
        None,
        description="The time at which completeness begins because one before it, since the account is searched, was not"
        " searched. Null if there is none",
    )
    searched_until: datetime | None = Field(
        description="Later than the watermark where Zendesk listed nothing since: the next search begins there all the same"
    )
    lag_seconds: float | None = Field(description="The age of `searched_until`")
    checked_at: datetime | None = Field(description="The end of the newest search that found all")
    error_code: str | None = Field(description="Of the newest step; null if it succeeded")
    error: str | None
    failed_at: datetime | None = Field(description="Since when the steps fail")
    backfills: Sequence[BackfillView] = Field(description="Searches that are not finished")
    found_without_webhook: int = Field(
        description="E-mails since the first webhook that the search or a look-up found, and that no webhook announced"
    )
    found_without_webhook_24h: int = Field(description="Of these, those found in the last 24 hours")
    found_capped: bool = Field(
        description=f"Whether only the newest {COUNT_CAP:,} unannounced e-mails were counted"
    )
    suspended_held: int = Field(description="Suspended e-mails that Zendesk still holds")
    suspended_at: datetime | None = Field(description="When Zendesk was last asked for them")
    refused_count: int = Field(
        description=f"Tickets that Zendesk refuses to the credentials; counted up to {COUNT_CAP:,}"
    )
    refused: Sequence[RefusedView] = Field(
        max_length=MAX_REFUSED, description="The first of them; each is asked for again once a day"
    )
    proof: ProofView | None = Field(description="The newest comparison of all; null before the first one")
    connection: ConnectionView | None = Field(description="Null without `holdfast connect`")

    @computed_field(description="All this in sentences")  # type: ignore[prop-decorator]
    @property
    def sentences(self) -> Sequence[str]:
        return _sentences(self)


async def list_accounts(conn: AsyncConnection, own: str) -> Sequence[RowMapping]:
    """Return the rows of all accounts, `own` first."""
    return (await conn.execute(_SOURCES, {"account": own})).mappings().all()


async def view_account(conn: AsyncConnection, row: RowMapping) -> SourceView:
    """Return the shown facts of an account."""
    account = {"account": row["account"]}
    runs = (await conn.execute(_BACKFILLS, account)).mappings().all()
    found = await count_lost(conn, row["account_id"])
    refused = (await conn.execute(_REFUSED, account)).mappings().all()
    link = (await conn.execute(_CONNECTION, account)).mappings().one_or_none()
    return SourceView(
        **{name: row[name] for name in _OF_SOURCE},
        backfills=[BackfillView(**run, progress=_progress(run, row["at"])) for run in runs],
        found_without_webhook=found.number,
        found_without_webhook_24h=found.of_the_day,
        found_capped=found.is_capped,
        left_out=left_out_of(row),
        unsearched_before=_unsearched_before(row),
        refused_count=await conn.scalar(_COUNT_REFUSED, account) or 0,
        refused=[RefusedView(**each) for each in refused],
        suspended_held=await count_suspended(conn, row["account"]),
        proof=_proof(row["proof"]),
        connection=ConnectionView(**{**link, "drift": _drift(link["drift"])}) if link else None,
    )


def _unsearched_before(row: RowMapping) -> datetime | None:
    """Return when completeness begins, if that is after the account was first searched and no left-out second says why."""
    since: datetime | None = row["complete_since"]
    return since if since is not None and since > row["began_at"] and left_out_of(row) is None else None


def _progress(run: RowMapping, now: datetime) -> float | None:
    """Return the searched share; lists reach their end all at once."""
    whole = (run["until"] or now) - run["since"]
    if run["leg"] != "events" or run["reached"] is None or whole <= timedelta():
        return None
    share: float = (run["reached"] - run["since"]) / whole
    return min(1.0, max(0.0, share))


def _drift(found: object) -> Sequence[DriftView]:
    """Read the differences that the check wrote."""
    some = found[:MAX_DIFFERENCES] if isinstance(found, list) else ()
    return [
        DriftView(code=str(each.get("code"))[:BRIEF_TEXT], text=str(each.get("text"))[:BRIEF_TEXT])
        for each in some
        if isinstance(each, dict)
    ]


def _proof(found: object) -> ProofView | None:
    """Read the result of the newest recount; a search that is not finished is left out."""
    if isinstance(found, dict) and "day" not in (found.get("search") or {}):
        found = {name: value for name, value in found.items() if name != "search"}
    try:
        return ProofView.model_validate(found) if found is not None else None
    except ValidationError:  # of another version of this program
        return None


def _sentences(view: SourceView) -> Sequence[str]:
    how = "by its export of events" if view.leg == "events" else "by its lists of changed tickets"
    why = f", since the export failed: {view.leg_reason}" if view.leg == "lists" and view.leg_reason else ""
    sentences = [f"{view.account} is searched {how}{why}."]
    if view.lag_seconds is not None:
        sentences.append(f"It was searched up to {minutes_ago(view.lag_seconds)}.")
    for run in view.backfills:
        what = "The search of its history" if run.kind == "history" else "The current search"
        share = f", {run.progress:.0%}" if run.progress is not None else ""
        sentences.append(
            f"{what} is running{share}: {counted(run.found, 'e-mail')} found, {number(run.added)} new,"
            f" {counted(run.calls, 'call')}."
        )
    if view.error_code:
        sentences.append(f"The search fails: {view.error_code}.")
    if view.left_out:
        sentences.append(
            f"Completeness begins behind {written_second(view.left_out)}: Zendesk's export gives only a part of the events of"
            " that second. Look in Zendesk for tickets that changed in it: those without an e-mail here are missing."
        )
    if view.unsearched_before:
        sentences.append(
            f"Completeness begins at {written_second(view.unsearched_before)}: a time before it was not searched, as after a long"
            " outage. Where the export of events is open, `holdfast backfill --since` searches it."
        )
    if view.refused_count:
        some = counted(view.refused_count, "ticket", capped=view.refused_count == COUNT_CAP)
        sentences.append(
            f"{some} could not be read, such as {', '.join(each.ticket_id for each in view.refused[:5])}: give the user of the"
            " credentials access to them, then run `holdfast backfill`."
        )
    if view.proof:
        sentences += _proven(view.proof)
    if view.connection and view.connection.drift:
        sentences.append("The webhook or the trigger at Zendesk was changed: `holdfast connect --repair`.")
    return sentences


def _proven(proof: ProofView) -> Sequence[str]:
    found = "all are here" if not proof.missing_count else f"{number(proof.missing_count)} missing"
    sentences = [f"The last recount compared {counted(proof.compared, 'e-mail')}: {found}."]
    if proof.search:
        sentences.append(_searched(proof.search))
    return sentences


def _searched(search: SearchProofView) -> str:
    day = f"{search.day.day} {search.day:%B}"
    if search.error_code:
        return f"Zendesk's search for the tickets of {day} failed: {search.error_code}."
    knows = f"Zendesk's search knows {counted(search.tickets, 'ticket', capped=search.capped)} that e-mails opened on {day}"
    if not search.without_count:
        return f"{knows}: all have e-mails here."
    without = counted(search.without_count, "ticket")
    return f"{knows}. Of this and earlier days, {without} had no e-mail here, such as {', '.join(search.without[:5])}."


_OF_SOURCE = (
    *(
        "account",
        "account_id",
        "leg",
        "leg_reason",
        "leg_since",
        "complete_since",
        "watermark",
        "searched_until",
        "lag_seconds",
    ),
    *("checked_at", "error_code", "error", "failed_at", "suspended_at"),
)


def _cut(*columns: str) -> str:
    """Write columns of text in SQL, cut for a list."""
    return ", ".join(f"left({name}, {BRIEF_TEXT}) AS {name}" for name in columns)


_SOURCES = statement(f"""
SELECT account, {_cut("account_id", "leg_reason", "error_code", "error")}, leg, leg_since,
    complete_since, began_at, left_out, watermark, checked_at, failed_at, suspended_at, proof, now() AS at, searched_until,
    extract(epoch FROM now() - searched_until)::float8 AS lag_seconds
FROM sources CROSS JOIN LATERAL (SELECT {searched_until()} AS searched_until) AS searched ORDER BY account <> :account, account LIMIT {MAX_ACCOUNTS}
""")  # noqa: S608 numbers of ours
_BACKFILLS = statement(f"""
SELECT id, kind, since, until, dry_run, leg, reached, started_at, found, added, calls
FROM backfills WHERE account = :account AND finished_at IS NULL ORDER BY account, id LIMIT {MAX_BACKFILLS}
""")  # noqa: S608 likewise
_REFUSED = statement(f"""
SELECT {_cut("ticket_id", "error_code", "error")}, since, refused_at, refused_last_at AS asked_at
FROM refused_tickets WHERE account = :account ORDER BY account, ticket_id LIMIT {MAX_REFUSED}
""")  # noqa: S608 likewise
_COUNT_REFUSED = statement(
    f"SELECT count(*) FROM (SELECT FROM refused_tickets WHERE account = :account LIMIT {COUNT_CAP}) AS refused"  # noqa: S608 likewise
)
_CONNECTION = statement(f"""
SELECT {_cut("webhook_id", "trigger_id", "error_code")}, checked_at, drift, drift_since
FROM connections WHERE account = :account
""")  # noqa: S608 likewise
