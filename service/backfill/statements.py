"""The statements of the back-fill's tables; `record` says what each is for."""

from sqlalchemy import JSON, BigInteger, Boolean, DateTime, Integer, Interval, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY

from service.jobs.discovery import IS_ERASED, IS_OF_ACCOUNT
from service.postgres.email_tables import BACK_FILLED
from service.postgres.source_tables import OPEN_BACKFILL

_TIME = DateTime(timezone=True)
_IS_MINE = "account = :account AND lease_number = :number"
BEGIN_SOURCE = text("INSERT INTO sources (account) VALUES (:account) ON CONFLICT DO NOTHING")
LOCK_SOURCE = text("SELECT FROM sources WHERE account = :account FOR NO KEY UPDATE")
_IS_HOURLY = "(:is_on AND (suspended_at IS NULL OR suspended_at < now() - :hour))"
TAKE = text(f"""
UPDATE sources SET lease_until = now() + :lease, lease_number = lease_number + 1
WHERE account = :account AND (lease_until IS NULL OR lease_until <= now()) AND (
    :is_on AND due_at <= now() OR {_IS_HOURLY}
    OR EXISTS (SELECT FROM backfills WHERE backfills.account = :account AND {OPEN_BACKFILL})
)
RETURNING lease_number, account_id, now(), {_IS_HOURLY}, error_code IS NOT NULL, account_is_told
""").bindparams(  # noqa: S608 constants of ours
    bindparam("is_on", type_=Boolean()), *(bindparam(name, type_=Interval()) for name in ("lease", "hour"))
)
RENEW = text(f"UPDATE sources SET lease_until = now() + :lease WHERE {_IS_MINE}").bindparams(  # noqa: S608 constants of ours
    bindparam("lease", type_=Interval())
)
PUT_OFF = text(f"""
UPDATE sources SET error_code = :code, error = :error, failed_at = coalesce(failed_at, now()),
    lease_until = now() + greatest(:least, least((now() - coalesce(failed_at, now())) / 2, :most))
WHERE {_IS_MINE}
""").bindparams(  # noqa: S608 constants of ours
    *(bindparam(name, type_=Interval()) for name in ("least", "most"))
)
FAIL = text(f"""
UPDATE backfills SET finished_at = now(), error_code = :code WHERE id = :id AND {OPEN_BACKFILL}
""")  # noqa: S608 constants of ours
MAKE_DUE = text("""
UPDATE sources SET due_at = now()
WHERE account = :account AND due_at > now() AND coalesce(checked_at <= now() - :recent, true)
""").bindparams(bindparam("recent", type_=Interval()))
OPEN_CURRENT = text(
    f"SELECT id, position FROM backfills WHERE account = :account AND kind = 'current' AND {OPEN_BACKFILL}"  # noqa: S608 constants of ours
).columns(position=JSON())
# A step that is under way saves nothing: its fencing token is an old one.
FENCE_OFF = text("UPDATE sources SET lease_number = lease_number + 1 WHERE account = :account")
CHANGE_POSITION = text("UPDATE backfills SET position = :position WHERE id = :id").bindparams(
    bindparam("position", type_=JSON())
)
# For a day after the export was closed, runs begin with the list.
BEGIN_CURRENT = text("""
INSERT INTO backfills (account, kind, since, leg, actor)
SELECT account, 'current', coalesce(watermark, now() - :first),
    CASE WHEN leg_since < now() - :again THEN 'events' ELSE leg END, :actor
FROM sources WHERE account = :account AND (:force OR due_at <= now()) AND NOT EXISTS (
    SELECT FROM backfills WHERE backfills.account = :account AND kind = 'current' AND finished_at IS NULL
)
ON CONFLICT DO NOTHING
""").bindparams(
    bindparam("actor", type_=Text()),
    bindparam("force", type_=Boolean()),
    *(bindparam(name, type_=Interval()) for name in ("first", "again")),
)
SAME_HISTORY = text(f"""
SELECT id FROM backfills
WHERE account = :account AND kind = 'history' AND {OPEN_BACKFILL} AND dry_run = :dry_run
    AND (since = :since OR CAST(:since AS timestamptz) IS NULL) AND until IS NOT DISTINCT FROM :until
ORDER BY id LIMIT 1
""").bindparams(  # noqa: S608 constants of ours
    bindparam("dry_run", type_=Boolean()), *(bindparam(name, type_=_TIME) for name in ("since", "until"))
)
BEGIN_HISTORY = text("""
INSERT INTO backfills (account, kind, since, until, dry_run, leg, actor)
SELECT account, 'history', coalesce(:since, watermark, now() - :first), :until, :dry_run, leg, :actor
FROM sources WHERE account = :account RETURNING id
""").bindparams(
    bindparam("dry_run", type_=Boolean()),
    bindparam("actor", type_=Text()),
    bindparam("first", type_=Interval()),
    *(bindparam(name, type_=_TIME) for name in ("since", "until")),
)
NEXT_RUN = text(f"""
SELECT id, kind, since, until, dry_run, leg, reached, listed_since, position,
    (SELECT complete_since FROM sources WHERE account = :account) AS complete_since
FROM backfills
WHERE account = :account AND {OPEN_BACKFILL} ORDER BY kind = 'history', id LIMIT 1
""").columns(position=JSON())  # noqa: S608 constants of ours
WAITING_ONES = text(f"""
SELECT count(*) FROM (SELECT FROM incoming_emails WHERE {BACK_FILLED} LIMIT :most) AS waiting
""").bindparams(bindparam("most", type_=BigInteger()))  # noqa: S608 constants of ours
# The newest requests that named the account count: a proxy may take the header away.
ACCOUNT_OF_WEBHOOKS = text("""
SELECT account_id FROM (
    (SELECT account_id, received_at, origin FROM incoming_emails ORDER BY id DESC LIMIT 1000)
    UNION ALL (SELECT account_id, received_at, origin FROM incoming_emails ORDER BY id LIMIT 1000)
    UNION ALL (SELECT account_id, received_at, 'webhook' FROM announcements ORDER BY id DESC LIMIT 100)
) AS edges
WHERE account_id <> '' AND origin = 'webhook' ORDER BY received_at DESC LIMIT 1
""")
LEARN = text(
    f"UPDATE sources SET account_id = :account_id, account_is_told = :is_told WHERE {_IS_MINE}"  # noqa: S608 constants of ours
).bindparams(bindparam("account_id", type_=Text()), bindparam("is_told", type_=Boolean()))
# The first statement of a page: it locks the account, and stops a process that lost its lease.
SUCCEED = text(f"""
UPDATE sources SET error_code = NULL, error = NULL, failed_at = NULL,
    leg = CASE WHEN :leg = 'events' THEN 'events' ELSE leg END,
    leg_since = CASE WHEN :leg = 'events' AND leg <> 'events' THEN now() ELSE leg_since END,
    leg_reason = CASE WHEN :leg = 'events' THEN NULL ELSE leg_reason END
WHERE {_IS_MINE}
""").bindparams(bindparam("leg", type_=Text()))  # noqa: S608 constants of ours
LEAVE = text(f"""
UPDATE sources SET leg_reason = :code, leg = CASE WHEN :of_account THEN 'lists' ELSE leg END,
    leg_since = CASE WHEN :of_account THEN now() ELSE leg_since END
WHERE {_IS_MINE}
""").bindparams(bindparam("of_account", type_=Boolean()))  # noqa: S608 constants of ours
CHANGE_LEG = text(f"""
UPDATE backfills SET leg = 'lists', listed_since = coalesce(reached, since), position = NULL, calls = calls + 1
WHERE id = :id AND {OPEN_BACKFILL}
""")  # noqa: S608 constants of ours
# This lock waits for a transaction that removes the e-mail: otherwise, its comment would be listed again after the removal.
# A scalar subquery with a limit finds the e-mail: for a join, Postgres may choose to read the whole table.
LOCK_NEW = text(f"""
SELECT id FROM incoming_emails WHERE id = ANY(ARRAY(
    SELECT (
        SELECT known.id FROM incoming_emails AS known
        WHERE known.zendesk_ticket_id = found.ticket_id AND known.comment_id = found.comment_id AND {IS_OF_ACCOUNT}
        LIMIT 1
    )
    FROM unnest(:tickets, :comments) AS found (ticket_id, comment_id)
    WHERE NOT EXISTS (
        SELECT FROM source_emails AS listed
        WHERE listed.account = :account AND (listed.ticket_id, listed.comment_id) = (found.ticket_id, found.comment_id)
    )
)) ORDER BY id FOR KEY SHARE
""").bindparams(  # noqa: S608 constants of ours
    *(bindparam(name, type_=Text()) for name in ("account", "account_id")),
    *(bindparam(name, type_=ARRAY(Text)) for name in ("tickets", "comments")),
)
# A comment whose e-mail was purged or erased is not counted: it would be missing.
LIST = text(f"""
INSERT INTO source_emails (account, ticket_id, comment_id, created_at)
SELECT :account, ticket_id, comment_id, created_at
FROM (SELECT :ticket_id AS ticket_id, :comment_id AS comment_id, :created_at AS created_at) AS found
WHERE NOT {IS_ERASED} AND NOT EXISTS (
    SELECT FROM removed_emails AS removed LEFT JOIN sources ON sources.account = :account
    WHERE removed.ticket_id = :ticket_id AND removed.comment_id = :comment_id
        AND coalesce(removed.account_id, sources.account_id, '') = coalesce(sources.account_id, removed.account_id, '')
) ON CONFLICT DO NOTHING
""").bindparams(  # noqa: S608 constants of ours
    *(bindparam(name, type_=Text()) for name in ("account", "account_id", "ticket_id", "comment_id")),
    bindparam("created_at", type_=_TIME),
)
PROGRESS = text(f"""
UPDATE backfills SET position = :position, reached = coalesce(:reached, reached), found = found + :found,
    added = added + :added, calls = calls + :calls, left_out = greatest(left_out, :left_out),
    finished_at = CASE WHEN :is_end THEN now() END
WHERE id = :id AND {OPEN_BACKFILL} RETURNING coalesce(reached, since) AS reached, left_out
""").bindparams(  # noqa: S608 constants of ours
    bindparam("position", type_=JSON()),
    *(bindparam(name, type_=_TIME) for name in ("reached", "left_out")),
    bindparam("is_end", type_=Boolean()),
    *(bindparam(name, type_=Integer()) for name in ("found", "added", "calls")),
)
COMPLETE = text(f"""
UPDATE sources SET complete_since = :complete_since, watermark = :watermark, left_out = :left_out,
    checked_at = CASE WHEN :is_current THEN now() ELSE checked_at END,
    due_at = CASE WHEN :is_current THEN now() + :pause ELSE due_at END
WHERE {_IS_MINE}
""").bindparams(  # noqa: S608 constants of ours
    bindparam("is_current", type_=Boolean()),
    bindparam("pause", type_=Interval()),
    *(bindparam(name, type_=_TIME) for name in ("complete_since", "watermark", "left_out")),
)
# The error of a current search stays until that goes on.
_GOES_ON = (
    f"NOT EXISTS (SELECT FROM backfills WHERE account = :account AND kind = 'current' AND {OPEN_BACKFILL})"
)
NOTE_HOUR = text(f"""
UPDATE sources SET suspended_at = now(), error_code = CASE WHEN NOT {_GOES_ON} THEN error_code END,
    error = CASE WHEN NOT {_GOES_ON} THEN error END, failed_at = CASE WHEN NOT {_GOES_ON} THEN failed_at END
WHERE {_IS_MINE}
""")  # noqa: S608 constants of ours
# The newest run that found all stays: it says until when the account was searched.
TRIM = text("""
DELETE FROM backfills WHERE account = :account AND kind = 'current' AND finished_at < now() - :kept
    AND id IS DISTINCT FROM (
        SELECT max(id) FROM backfills
        WHERE account = :account AND kind = 'current' AND finished_at IS NOT NULL AND error_code IS NULL
    )
""").bindparams(bindparam("kept", type_=Interval()))
RUN_STATE = text("""
SELECT since, until, leg, reached, found, added, calls,
    coalesce(CASE WHEN json_typeof(position -> 'tickets') = 'array' THEN json_array_length(position -> 'tickets') END, 0),
    left_out, finished_at IS NOT NULL, error_code
FROM backfills WHERE id = :id
""")
