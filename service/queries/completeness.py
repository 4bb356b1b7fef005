"""Is every e-mail that Zendesk has kept here? The answer in a sentence, and the numbers behind it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import Field
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection
from yarl import URL

from service.config.settings import Settings
from service.formatting import counted, duration, number
from service.postgres.email_tables import DISMISSED, NOT_CAPTURED
from service.postgres.listed import EMAIL_OF, FRESH, WITHOUT_EMAIL, keys_of, statement
from service.queries.views import View
from service.zendesk.account import account_of
from service.zendesk.rate_limit import key_of

COUNT_CAP = 10_000
# The newest comments that are compared each time. A worker compares all of them once a day.
COMPARED = 5_000
# Zendesk was asked too long ago after so many pauses between two searches, and no earlier than after this time.
LATE_PAUSES = 3
LATE_AFTER = timedelta(minutes=30)

CompletenessState = Literal["complete", "in_work", "incomplete", "unknown"]


class CompletenessView(View):
    """Whether every e-mail that Zendesk has is kept."""

    state: CompletenessState = Field(
        description="`in_work`: all e-mails are here, some are not completed yet; `unknown`: Zendesk was not asked,"
        " or too long ago, or a count stopped"
    )
    sentence: str
    is_on: bool = Field(description="Whether workers ask Zendesk for e-mails that no webhook announced")
    since: datetime | None = Field(
        description="Since when all comments by e-mail are known; null before the first search has ended"
    )
    checked_at: datetime | None = Field(description="When the newest search ended that found all")
    missing: int = Field(description="Comments by e-mail that Zendesk lists and that have no e-mail here")
    unknown_tickets: int = Field(
        description="Tickets that an e-mail opened, by Zendesk's own search, and that have no e-mail here"
    )
    unread_tickets: int = Field(
        description="Tickets that Zendesk refuses to the credentials: which e-mails they have is not known"
    )
    failed: int = Field(
        description="E-mails that Zendesk lists and that failed, or lack files; without dismissed ones"
    )
    dismissed: int = Field(0, description="E-mails that Zendesk lists, and that failed and were dismissed")
    in_work: int = Field(description="E-mails that Zendesk lists and whose job has not ended")
    error_code: str | None = Field(description="Of the newest step of the search; null if it succeeded")
    capped: bool = Field(description=f"Whether a count stopped at {COUNT_CAP:,}")

    @property
    def needs_attention(self) -> bool:
        """Whether e-mails are missing, or Zendesk cannot be asked; failed e-mails need attention anyway."""
        # A count that stops is a long backlog, which the overview shows anyway.
        is_late = self.checked_at is not None and not self.capped
        is_stuck = self.state == "unknown" and (is_late or self.error_code is not None)
        return self.is_on and (
            self.missing > 0 or self.unknown_tickets > 0 or self.unread_tickets > 0 or is_stuck
        )


async def completeness_of(conn: AsyncConnection, settings: Settings) -> CompletenessView:
    """Compare Zendesk's lists with the e-mails that are here."""
    reason = _why_off(settings)
    url = settings.account_url
    row = None
    if url is not None:
        row = (await conn.execute(_SOURCE, {"account": key_of(URL(url))})).mappings().one_or_none()
    if reason or row is None or row["checked_at"] is None:
        sentence = f"Back-fill is off: {reason}." if reason else _unasked(row)
        return _unknown(sentence, row, is_on=not reason)
    return _judge(row, await _counts(conn, row), settings)


def recorded_keys(proof: object) -> tuple[list[str], list[str]]:
    """Return tickets and comments that the newest daily comparison found missing."""
    missing = proof.get("missing") if isinstance(proof, Mapping) else None
    pairs = [pair for pair in missing or () if isinstance(pair, list) and len(pair) == 2]
    return [str(ticket) for ticket, _ in pairs], [str(comment) for _, comment in pairs]


def minutes_ago(seconds: float) -> str:
    """Write an age in whole minutes: with seconds, the live overview would change all the time."""
    minutes = max(0, int(seconds // 60))
    return f"{duration(60 * minutes)} ago" if minutes else "just now"


def _was_recounted(proof: object) -> bool:
    return isinstance(proof, Mapping) and "at" in proof


def written_day(day: datetime, today: datetime) -> str:
    """Write a day, with its year if that is another one."""
    day, today = day.astimezone(UTC), today.astimezone(UTC)
    return f"{day.day} {day:%B}" + (f" {day.year}" if day.year != today.year else "")


def left_out_of(row: RowMapping) -> datetime | None:
    """Return the second behind which completeness begins because a search found only a part of it; else None."""
    end: datetime | None = row["left_out"]
    return end - timedelta(seconds=1) if end is not None and end == row["complete_since"] else None


def written_second(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _why_off(settings: Settings) -> str:
    if settings.backfill_minutes == 0:
        return "BACKFILL_MINUTES is 0"
    if account_of(settings).login is None:
        return "there are no credentials for Zendesk's API"
    return ""


def _unasked(row: RowMapping | None) -> str:
    if row is None:
        return "Zendesk was not asked yet."
    failed = f" The first search fails: {row['error_code']}." if row["error_code"] else ""
    found = f" The first search has found {counted(row['found'], 'e-mail')} so far." if row["found"] else ""
    return f"Zendesk was not asked yet.{failed or found}" if not found else f"{found.strip()}{failed}"


def _unknown(sentence: str, row: RowMapping | None, *, is_on: bool) -> CompletenessView:
    return CompletenessView(
        state="unknown",
        sentence=sentence,
        is_on=is_on,
        since=row["complete_since"] if row else None,
        checked_at=row["checked_at"] if row else None,
        missing=0,
        unknown_tickets=0,
        unread_tickets=0,
        failed=0,
        in_work=0,
        error_code=row["error_code"] if row else None,
        capped=False,
    )


async def _counts(conn: AsyncConnection, row: RowMapping) -> Mapping[str, Any]:
    keys, (tickets, comments) = keys_of(row["account_id"]), recorded_keys(row["proof"])
    given = {"account": row["account"], "keys": keys}
    missing = (await conn.execute(_MISSING, {**given, "tickets": tickets, "comments": comments})).one()
    unfinished = (await conn.execute(_UNFINISHED, given)).one()
    # Without a comparison of all, only the newest comments are known to have e-mails.
    is_partial = missing.compared >= COMPARED and not _was_recounted(row["proof"])
    times = [row["complete_since"], missing.compared_since if is_partial else None]
    return {
        "since": max((each for each in times if each), default=None),
        "missing": missing.missing + _not_kept(row["proof"], "missing"),
        "unknown_tickets": await _count_unknown(conn, row["proof"], keys),
        "unread_tickets": await conn.scalar(_UNREAD, {"account": row["account"]}) or 0,
        "failed": unfinished.failed,
        "dismissed": unfinished.dismissed,
        "in_work": unfinished.in_work,
        "capped": COUNT_CAP in (unfinished.failed_examined, unfinished.in_work_examined),
    }


async def _count_unknown(conn: AsyncConnection, proof: object, keys: Sequence[str]) -> int:
    """Count the tickets that the newest daily proof found without an e-mail, and that have none since."""
    search = proof.get("search") if isinstance(proof, Mapping) else None
    without = search.get("without") if isinstance(search, Mapping) else None
    tickets = [str(ticket) for ticket in without or ()]
    known = await conn.scalar(_UNKNOWN, {"tickets": tickets, "keys": keys}) or 0 if tickets else 0
    return known + _not_kept(search, "without")


def _not_kept(found: object, name: str) -> int:
    """Return how many a comparison counted and did not keep: until the next one, each of them counts."""
    if not isinstance(found, Mapping):
        return 0
    number_of, kept = found.get(f"{name}_count"), found.get(name)
    return max(0, number_of - len(kept or ())) if isinstance(number_of, int) else 0


def _judge(row: RowMapping, counts: Mapping[str, Any], settings: Settings) -> CompletenessView:
    age = timedelta(seconds=max(0.0, row["checked_seconds"]))
    is_late = age > max(LATE_PAUSES * timedelta(minutes=settings.backfill_minutes), LATE_AFTER)
    state: CompletenessState = "complete"
    if any(counts[name] for name in ("missing", "failed", "unknown_tickets", "unread_tickets")):
        state = "incomplete"
    elif is_late or counts["capped"]:
        state = "unknown"
    elif counts["in_work"]:
        state = "in_work"
    checked = f"{'Zendesk was last asked' if is_late else 'Checked'} {minutes_ago(row['checked_seconds'])}."
    sentences = [_fact(row, counts, is_late=is_late), checked]
    if behind := left_out_of(row):
        sentences.append(f"Completeness begins behind {written_second(behind)}: that second was left out.")
    if row["error_code"]:
        sentences.append(f"Since then the search fails: {row['error_code']}.")
    return CompletenessView(
        state=state,
        sentence=" ".join(sentences),
        is_on=True,
        checked_at=row["checked_at"],
        error_code=row["error_code"],
        **counts,
    )


def _fact(row: RowMapping, counts: Mapping[str, Any], *, is_late: bool) -> str:
    since = f" since {written_day(counts['since'], row['at'])}" if counts["since"] else ""
    # The cap is of the examined e-mails: at least so many are listed.
    failed, in_work = (number(counts[name], counts["capped"]) for name in ("failed", "in_work"))
    has = "had then" if is_late else "has"
    if lack := _lack(counts, has, failed):
        return lack
    if counts["failed"]:
        return f"All e-mails that Zendesk {has}{since} are here, but {failed} failed."
    if counts["capped"]:
        return f"All e-mails that Zendesk {has}{since} are here; too many are not completed to look at each."
    if counts["in_work"]:
        verb = "is" if counts["in_work"] == 1 else "are"
        return f"All e-mails that Zendesk {has}{since} are here; {in_work} {verb} in work."
    return f"Every e-mail that Zendesk {has}{since} is kept{' or dismissed' if counts['dismissed'] else ''}."


def _lack(counts: Mapping[str, Any], has: str, failed: str) -> str:
    """Name the missing e-mails, if there are any."""
    if counts["missing"]:
        verb = "is" if counts["missing"] == 1 else "are"
        noun = "e-mail" if counts["missing"] == 1 else "e-mails"
        also = f", and {failed} failed" if counts["failed"] else ""
        return f"{number(counts['missing'])} {noun} that Zendesk {has} {verb} missing here{also}."
    if counts["unknown_tickets"]:
        some = counted(counts["unknown_tickets"], "ticket")
        have = "has" if counts["unknown_tickets"] == 1 else "have"
        return f"{some} that an e-mail opened in Zendesk {have} no e-mail here."
    if counts["unread_tickets"]:
        some = counted(counts["unread_tickets"], "ticket", capped=counts["unread_tickets"] == COUNT_CAP)
        return f"{some} in Zendesk could not be read: Zendesk refuses them to the user of the credentials."
    return ""


_SOURCE = statement("""
SELECT account, account_id, complete_since, left_out, checked_at, left(error_code, 300) AS error_code, proof, now() AS at,
    extract(epoch FROM now() - checked_at)::float8 AS checked_seconds,
    (SELECT found FROM backfills WHERE account = sources.account AND finished_at IS NULL
        ORDER BY account, id LIMIT 1) AS found
FROM sources WHERE account = :account
""")
_MISSING = statement(f"""
WITH {FRESH}, newest AS MATERIALIZED (
    SELECT ticket_id, comment_id, created_at FROM source_emails WHERE account = :account
    ORDER BY created_at DESC LIMIT {COMPARED}
), recorded AS (
    SELECT one.* FROM unnest(:tickets, :comments) AS known(ticket_id, comment_id) CROSS JOIN LATERAL (
        SELECT ticket_id, comment_id, created_at FROM source_emails
        WHERE account = :account AND ticket_id = known.ticket_id AND comment_id = known.comment_id LIMIT 1
    ) AS one
)
SELECT count(*) FILTER (WHERE email.id IS NULL) AS missing,
    (SELECT count(*) FROM newest) AS compared, (SELECT min(created_at) FROM newest) AS compared_since
FROM (SELECT * FROM newest UNION SELECT * FROM recorded) AS listed {EMAIL_OF}
""")  # noqa: S608 words and numbers of ours
_UNKNOWN = statement(f"SELECT count(*) {WITHOUT_EMAIL}")
_UNREAD = statement(
    f"SELECT count(*) FROM (SELECT FROM refused_tickets WHERE account = :account LIMIT {COUNT_CAP}) AS refused"  # noqa: S608 a number of ours
)
_UNFINISHED = statement(f"""
SELECT count(*) FILTER (WHERE is_failed AND NOT is_dismissed AND one IS NOT NULL) AS failed,
    count(*) FILTER (WHERE is_dismissed AND one IS NOT NULL) AS dismissed,
    count(*) FILTER (WHERE NOT is_failed AND one IS NOT NULL) AS in_work,
    max(place) FILTER (WHERE is_failed) AS failed_examined,
    max(place) FILTER (WHERE NOT is_failed) AS in_work_examined
FROM (
    SELECT email.*, every.status = 'failed' AS is_failed
    FROM unnest(ARRAY['received', 'queued', 'processing', 'failed']) AS every(status) CROSS JOIN LATERAL (
        SELECT account_id, zendesk_ticket_id, comment_id, is_dismissed, row_number() OVER () AS place FROM (
            SELECT account_id, zendesk_ticket_id, comment_id, ({DISMISSED}) IS TRUE AS is_dismissed
            FROM incoming_emails WHERE processing_status = every.status
            ORDER BY received_at DESC LIMIT (SELECT {COUNT_CAP})
        ) AS newest
    ) AS email
    UNION ALL
    -- Of completed e-mails, this is the only error.
    SELECT account_id, zendesk_ticket_id, comment_id, is_dismissed, row_number() OVER () AS place, true FROM (
        SELECT account_id, zendesk_ticket_id, comment_id, ({DISMISSED}) IS TRUE AS is_dismissed
        FROM incoming_emails WHERE error_code = '{NOT_CAPTURED}' AND processing_status = 'completed'
        ORDER BY error_code, id DESC LIMIT (SELECT {COUNT_CAP})
    ) AS not_captured
) AS email
LEFT JOIN LATERAL (
    SELECT 1 AS one FROM source_emails
    WHERE account = :account AND ticket_id = email.zendesk_ticket_id AND comment_id = email.comment_id
    AND coalesce(email.account_id, '') = ANY (:keys)
    LIMIT 1
) AS listed ON true
""")  # noqa: S608 a word and a number of ours
