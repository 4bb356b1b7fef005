"""Merge e-mails that are one comment: everything of the newer row becomes part of the older one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Boolean, Text, TextClause, bindparam, func, literal, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs import waiting
from service.jobs.loose_objects import note_named
from service.jobs.merged_files import FilePlan, files_by_email, move_files, plan_files
from service.jobs.retries import FINISHED_STATES, reopen_parts, requeue, restart_sync
from service.postgres import evidence_log
from service.postgres.email_tables import NOT_CAPTURED, REVISED, IncomingEmail
from service.postgres.held_emails import holds_on
from service.telemetry.metrics import TRANSITIONS

_REQUEUED = TRANSITIONS.labels("queued", "merge")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows of one comment: the e-mail that stays, and the one that becomes part of it."""

    into: int
    gone: int


@dataclass(frozen=True, slots=True)
class _State:
    """What a merge needs to know of a locked row; `told` is what the documents of the targets say of the row itself."""

    email_id: int
    status: str
    sync_status: str
    sync_attempt_number: int
    has_message: bool
    told: str

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED_STATES

    @property
    def may_be_in_a_target(self) -> bool:
        return self.sync_status == "synced" or self.sync_attempt_number > 0


async def merge_pairs(conn: AsyncConnection, pairs: Iterable[Pair]) -> list[Pair]:
    """Merge pairs in a transaction that the caller opened; return those that were merged, in the given order.

    A pair with a row that is no more is left out. An e-mail that was failed, or now has files to fetch, is queued again,
    due now; a running attempt is followed by another one. Other finished e-mails get a new version where they changed.
    """
    wanted = list(pairs)
    await lock(conn, [number for pair in wanted for number in (pair.into, pair.gone)])
    done = []
    for round_ in _rounds(wanted):
        done += await _merge_round(conn, round_)
    return [pair for pair in wanted if pair in done]


def _rounds(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Split pairs so that each round has an e-mail that stays only once."""
    rounds: list[dict[int, Pair]] = []
    for pair in pairs:
        free = next((each for each in rounds if pair.into not in each), None)
        if free is None:
            rounds.append(free := {})
        free[pair.into] = pair
    return [list(each.values()) for each in rounds]


async def lock(conn: AsyncConnection, email_ids: Sequence[int]) -> None:
    """Lock the rows of a merge."""
    await conn.execute(_BY_INDEX)
    await waiting.lock(conn, email_ids, for_delete=True)


async def _merge_round(conn: AsyncConnection, pairs: Sequence[Pair]) -> list[Pair]:
    email_ids = [number for pair in pairs for number in (pair.into, pair.gone)]
    states = await _read_states(conn, email_ids)
    pairs = [pair for pair in pairs if pair.into in states and pair.gone in states]
    if not pairs:
        return []
    given = {"into": [pair.into for pair in pairs], "gone": [pair.gone for pair in pairs]}
    held = await holds_on(conn, given["gone"])
    # A merge keeps one of two records, and one of two equal files.
    await note_named(conn, given["gone"])
    plans = await _move_files(conn, pairs, states)
    for statement in (_MOVE_REQUESTS, _MOVE_ATTEMPTS, _MOVE_REFERENCES, _MOVE_ORIGINALS, _MOVE_MESSAGES):
        await conn.execute(statement, given)
    await conn.execute(_REMEMBER, {**given, "is_synced": [_was_synced(states, pair) for pair in pairs]})
    await _keep_other_columns(conn, pairs)
    await conn.execute(_DELETE_PARTS, given)
    await conn.execute(_JOIN, given)
    await _keep_held(conn, pairs, held)
    into = [{"into": pair.into} for pair in pairs]
    await evidence_log.record(conn, "merged", into, [pair.gone for pair in pairs])
    await evidence_log.restate(conn, [pair.into for pair in pairs])
    await _reopen(conn, pairs, states, plans)
    return list(pairs)


async def _read_states(conn: AsyncConnection, email_ids: Sequence[int]) -> Mapping[int, _State]:
    return {row.id: _State(*row) for row in await conn.execute(_STATES, {"email_ids": email_ids})}


async def _move_files(
    conn: AsyncConnection, pairs: Sequence[Pair], states: Mapping[int, _State]
) -> Mapping[Pair, FilePlan]:
    files = await files_by_email(conn, [number for pair in pairs for number in (pair.into, pair.gone)])
    plans = {
        pair: plan_files(files[pair.into], files[pair.gone], is_finished=states[pair.into].is_finished)
        for pair in pairs
    }
    await move_files(conn, {(pair.into, pair.gone): plan for pair, plan in plans.items()})
    return plans


def _was_synced(states: Mapping[int, _State], pair: Pair) -> bool:
    return states[pair.gone].may_be_in_a_target


async def _reopen(
    conn: AsyncConnection,
    pairs: Sequence[Pair],
    states: Mapping[int, _State],
    plans: Mapping[Pair, FilePlan],
) -> None:
    """Let an attempt or a sync follow where the merge changed something that these have to know."""
    running = [
        pair.into for pair in pairs if states[pair.into].status == "processing" and plans[pair].has_pending
    ]
    if running:
        await conn.execute(_NOTIFY, {"email_ids": running})
    queued = [pair.into for pair in pairs if _needs_attempt(states[pair.into], plans[pair])]
    if queued:
        await _requeue(conn, queued)
    others = [pair for pair in pairs if states[pair.into].is_finished and pair.into not in set(queued)]
    joined = await _read_states(conn, [pair.into for pair in others])
    changed = [pair for pair in others if _is_changed(states, plans, pair, joined[pair.into])]
    if changed:
        await conn.execute(_REVISE, {"email_ids": [pair.into for pair in changed]})
    to_sync = [pair.into for pair in others if _needs_sync(states, pair, is_changed=pair in changed)]
    if to_sync:
        begun = restart_sync(IncomingEmail.id == func.any(literal(to_sync, ARRAY(BigInteger))))
        await conn.execute(select(begun.c.id))


def _needs_attempt(state: _State, plan: FilePlan) -> bool:
    return state.is_finished and (state.status == "failed" or plan.has_pending)


def _is_changed(
    states: Mapping[int, _State], plans: Mapping[Pair, FilePlan], pair: Pair, joined: _State
) -> bool:
    has_new_message = states[pair.gone].has_message and not states[pair.into].has_message
    return plans[pair].has_changed or has_new_message or joined.told != states[pair.into].told


def _needs_sync(states: Mapping[int, _State], pair: Pair, *, is_changed: bool) -> bool:
    """Say whether the targets have to be told: of the changed e-mail, or of the document that it replaces."""
    has_target = any(states[number].sync_status != "not_applicable" for number in (pair.into, pair.gone))
    return has_target and (is_changed or _was_synced(states, pair))


async def _requeue(conn: AsyncConnection, email_ids: Sequence[int]) -> None:
    are_these = IncomingEmail.id == func.any(literal(email_ids, ARRAY(BigInteger)))
    queued = requeue(are_these, reread=False)
    rows = (await conn.execute(select(queued.c.id).add_cte(*reopen_parts(queued)))).all()
    await conn.execute(_MAKE_DUE, {"email_ids": email_ids})
    _REQUEUED.inc(len(rows))


async def _keep_held(conn: AsyncConnection, pairs: Sequence[Pair], held: Mapping[int, Sequence[str]]) -> None:
    """List each e-mail in the holds whose filter covered the other one, and does not know it by its own sender and times."""
    now = await holds_on(conn, [pair.into for pair in pairs if pair.gone in held])
    lost = [(name, pair.into) for pair in pairs for name in held.get(pair.gone, ())]
    lost = [(name, email_id) for name, email_id in lost if name not in now.get(email_id, ())]
    if lost:
        names, email_ids = zip(*lost, strict=True)
        await conn.execute(_HOLD, {"names": [*names], "email_ids": [*email_ids]})


async def _keep_other_columns(conn: AsyncConnection, pairs: Sequence[Pair]) -> None:
    """Keep the columns that a previous system's table has and we do not know: they go with the row."""
    known = [column.name for column in IncomingEmail.__table__.columns]
    names = list(await conn.scalars(_OTHER_COLUMNS, {"known": known}))
    if names:
        quoted = (name.replace('"', '""') for name in names)
        chosen = ", ".join(f'email."{name}"' for name in quoted)
        statement = text(_KEEP_OTHERS.format(chosen=chosen.replace(":", r"\:")))
        await conn.execute(statement.bindparams(*_IDS), {"email_ids": [pair.gone for pair in pairs]})


def _statement(sql: str, *more: Any) -> TextClause:  # noqa: ANN401 bind parameters
    return text(sql).bindparams(
        *(bindparam(name, type_=ARRAY(BigInteger)) for name in ("into", "gone") if f":{name}" in sql), *more
    )


_IDS = (bindparam("email_ids", type_=ARRAY(BigInteger)),)
_PAIR = "unnest(:into, :gone) AS pair (into_id, gone_id)"
# Each table grows from nothing during the merges. Until its statistics are renewed, Postgres would read all of it for
# each row, also to check a foreign key.
_BY_INDEX = text("SELECT set_config('enable_seqscan', 'off', true)")
_STATES = text("""
SELECT id, processing_status, sync_status, sync_attempt_number,
    EXISTS (SELECT FROM messages WHERE email_id = id) AS has_message,
    CAST(to_json(ARRAY[
        from_email, from_name, subject, CAST(sent_at AS text), comment_id, error_code, processing_error
    ]) AS text) AS told
FROM incoming_emails WHERE id = ANY(:email_ids)
""").bindparams(*_IDS)

# Its request becomes a further one. A request with the key of another body, which intake would have put into quarantine,
# gets a key of its own: no body is lost.
_MOVE_REQUESTS = _statement(f"""
WITH moved AS (
    UPDATE announcements SET email_id = into_id FROM {_PAIR} WHERE email_id = gone_id
)
INSERT INTO announcements (
    email_id, received_at, idempotency_key, signature_hash, account_id, invocation_id, raw_body, raw_headers, late
)
SELECT into_id, received_at, CASE WHEN EXISTS (
        SELECT FROM announcements AS other
        WHERE other.idempotency_key = email.idempotency_key AND other.raw_body <> email.raw_body
    ) THEN 'holdfast:email:' || gone_id ELSE coalesce(idempotency_key, 'holdfast:email:' || gone_id) END,
    signature_hash, account_id, invocation_id, raw_body, coalesce(raw_headers, '[]'), late
FROM {_PAIR} JOIN incoming_emails AS email ON email.id = gone_id
WHERE raw_body IS NOT NULL ORDER BY 3
ON CONFLICT DO NOTHING
""")  # noqa: S608 names of ours
# Numbers from 0 down, the newest first: those from 1 on are the versions of the e-mail that stays.
_MOVE_ATTEMPTS = _statement(f"""
UPDATE attempts SET email_id = numbered.into_id, number = numbered.number,
    outcome = coalesce(outcome, 'handed_back'), finished_at = coalesce(finished_at, now())
FROM (
    SELECT into_id, gone_id, gone.number AS old, (
        SELECT least(1, min(mine.number)) FROM attempts AS mine WHERE mine.email_id = into_id
    ) - row_number() OVER (PARTITION BY gone_id ORDER BY gone.number DESC) AS number
    FROM {_PAIR} JOIN attempts AS gone ON gone.email_id = gone_id
) AS numbered
WHERE attempts.email_id = gone_id AND attempts.number = old
""")  # noqa: S608 names of ours
_REFERENCES = ("operator_actions", "quarantined_webhooks", "ignored_webhooks", "reconciliation_findings")
_RENAMED = f"SET email_id = into_id FROM {_PAIR} WHERE email_id = gone_id"
_MOVE_REFERENCES = _statement(
    f"WITH {', '.join(f'of_{table} AS (UPDATE {table} {_RENAMED})' for table in _REFERENCES)}"
    f" UPDATE merged_emails {_RENAMED}"
)
_ORIGINAL = ("original", "original_sha256", "original_key", "original_size", "original_error_code")
_MOVE_ORIGINALS = _statement(f"""
UPDATE messages AS mine SET {", ".join(f"{name} = theirs.{name}" for name in _ORIGINAL)}
FROM {_PAIR} JOIN messages AS theirs ON theirs.email_id = gone_id
WHERE mine.email_id = into_id AND mine.original_key IS NULL AND theirs.original_key IS NOT NULL
""")  # noqa: S608 names of ours
_MOVE_MESSAGES = _statement(f"""
UPDATE messages SET email_id = into_id FROM {_PAIR}
WHERE email_id = gone_id AND NOT EXISTS (SELECT FROM messages AS mine WHERE mine.email_id = into_id)
""")  # noqa: S608 names of ours
_REMEMBER = text("""
INSERT INTO merged_emails (id, email_id, idempotency_key, version)
SELECT gone_id, into_id, coalesce(idempotency_key, 'holdfast:email:' || gone_id),
    CASE WHEN is_synced THEN attempt_number + 1 END
FROM unnest(:into, :gone, :is_synced) AS pair (into_id, gone_id, is_synced)
JOIN incoming_emails AS email ON email.id = gone_id
""").bindparams(
    *(bindparam(name, type_=ARRAY(BigInteger)) for name in ("into", "gone")),
    bindparam("is_synced", type_=ARRAY(Boolean)),
)
_OTHER_COLUMNS = text("""
SELECT attname FROM pg_attribute
WHERE attrelid = 'incoming_emails'::regclass AND attnum > 0 AND NOT attisdropped AND attname <> ALL(:known)
ORDER BY attnum
""")
_KEEP_OTHERS = """
UPDATE merged_emails AS merged SET other_columns = (SELECT to_json(others) FROM (SELECT {chosen}) AS others)
FROM incoming_emails AS email WHERE email.id = merged.id AND email.id = ANY(:email_ids)
"""
_DELETE_PARTS = _statement("""
WITH of_messages AS (DELETE FROM messages WHERE email_id = ANY(:gone))
DELETE FROM email_words WHERE email_id = ANY(:gone) OR email_id = ANY(:into)
""")
# What the e-mail that stays does not know. It also lacks the files that were not captured of the other one.
_FILLED = ("from_email", "from_name", "subject", "sent_at", "attachment_urls", "looked_up_at")
_ERROR = ("error_code", "processing_error")
_RETURNED = (*_FILLED, *_ERROR, "comment_id", "account_id", "identified", "processing_status")
_IS_LACKING = (
    f"email.processing_status = 'completed' AND gone.error_code = '{NOT_CAPTURED}'"
    " AND gone.processing_status = 'completed'"
)
_JOIN = _statement(f"""
WITH gone AS (
    DELETE FROM incoming_emails AS email USING {_PAIR} WHERE id = gone_id
    RETURNING into_id, {", ".join(f"email.{name}" for name in _RETURNED)}
)
UPDATE incoming_emails AS email SET
    {", ".join(f"{name} = coalesce(email.{name}, gone.{name})" for name in _FILLED)},
    {
    ", ".join(
        f"{name} = CASE WHEN {_IS_LACKING} THEN coalesce(email.{name}, gone.{name}) ELSE email.{name} END"
        for name in _ERROR
    )
},
    comment_id = CASE WHEN gone.identified THEN gone.comment_id
        ELSE coalesce(nullif(email.comment_id, ''), gone.comment_id, email.comment_id) END,
    account_id = CASE WHEN gone.identified THEN gone.account_id ELSE email.account_id END,
    identified = email.identified OR gone.identified
FROM gone WHERE email.id = gone.into_id
""")  # noqa: S608 names of ours
_HOLD = text("""
INSERT INTO held_emails (hold_id, email_id)
SELECT id, email_id FROM unnest(:names, :email_ids) AS lost (name, email_id) JOIN holds USING (name)
ON CONFLICT DO NOTHING
""").bindparams(bindparam("names", type_=ARRAY(Text)), *_IDS)
_NOTIFY = text("UPDATE incoming_emails SET has_news = true WHERE id = ANY(:email_ids)").bindparams(*_IDS)
_MAKE_DUE = text("UPDATE incoming_emails SET due_at = now() WHERE id = ANY(:email_ids)").bindparams(*_IDS)
# Each state of a finished e-mail has its own version in the targets.
_REVISE = text(f"UPDATE incoming_emails SET {REVISED} WHERE id = ANY(:email_ids)").bindparams(*_IDS)  # noqa: S608 words of ours
