"""Fill a large database with rows like those of a service in production; Postgres generates them."""

import asyncpg

from service.evidence.keys import new_key
from service.evidence.sequence import BATCH
from service.postgres.evidence_log import ROWS, told

# The unfinished e-mails, oldest first: leases that ended, attempts under way, queued jobs, and received e-mails.
EXPIRED, CLAIMED, QUEUED, RECEIVED = 100, 100, 300, 300
YOUNG = EXPIRED + CLAIMED + QUEUED + RECEIVED
# The newest finished e-mails, whose sync is pending.
TO_SYNC = 300

# E-mail number `i` of $1, one in {pause} seconds, three to a ticket. A hundredth of the old ones failed, and as many syncs did.
# Keys are ordered by time, like the ids of Zendesk's invocations.
_EMAILS = """
WITH bytes AS MATERIALIZED (
    SELECT string_agg(sha512(i::text::bytea), NULL ORDER BY i) AS noise FROM generate_series(1, 1024) AS i
), email AS (
    SELECT i, $1::bigint - i AS age, date_trunc('second', now()) - ($1::bigint - i) * interval '{pause} seconds' AS time
    FROM generate_series(1, $1::bigint) AS i
), state AS (
    SELECT *, CASE
        WHEN age < {young} + {to_sync} THEN 'pending' WHEN i % 100 = 13 THEN 'failed' ELSE 'synced'
    END AS sync, CASE
        WHEN age < {received} THEN 'received'
        WHEN age < {received} + {queued} THEN 'queued'
        WHEN age < {received} + {queued} + {claimed} + {expired} THEN 'processing'
        WHEN i % 100 = 7 THEN 'failed' ELSE 'completed'
    END AS status FROM email
)
INSERT INTO incoming_emails (
    id, zendesk_ticket_id, from_email, from_name, subject, received_at, idempotency_key, attachment_urls,
    raw_body, raw_headers, account_id, invocation_id, processing_status, processing_error, error_code,
    error_host, started_at, completed_at, attempt_number, due_at, lease_until,
    sync_status, sync_error_code, sync_due_at, comment_id, identified, origin, zendesk_state
) OVERRIDING SYSTEM VALUE SELECT
    i, (i * 7919 % ($1 / 3))::text, 'someone.' || i || '@customer.example', 'Someone ' || i,
    'Re: about order number ' || i || ' and what became of it', time,
    'invocation:' || to_char(time, 'YYYYMMDDHH24MISS') || md5(i::text),
    json_build_array('https://account.zendesk.com/attachments/token/' || md5(i::text) || '/?name=invoice.pdf'),
    substring(noise, 1 + (i * 127 % 64000)::int, {body}),
    json_build_array(json_build_array('X-Zendesk-Webhook-Signature', encode(sha256(i::text::bytea), 'base64'))),
    '13000001', md5(i::text), status,
    CASE status WHEN 'failed' THEN 'The host said 404.' END, CASE status WHEN 'failed' THEN (ARRAY['attachment_gone', 'http_500', 'too_large'])[1 + i / 100 % 3] END,
    CASE status WHEN 'failed' THEN 'host-' || i / 300 % 4 || '.customer.example' END,
    CASE WHEN status NOT IN ('received', 'queued') THEN time + interval '1 second' END,
    CASE WHEN status IN ('completed', 'failed') THEN time + interval '3 seconds' END,
    CASE WHEN status IN ('received', 'queued') THEN 0 ELSE 1 END,
    time + interval '3 seconds',
    CASE WHEN status = 'processing' THEN now() + CASE WHEN age < {received} + {queued} + {claimed}
        THEN interval '30 days' ELSE interval '-1 minute' END END,
    sync, CASE sync WHEN 'failed' THEN 'document_refused' END, time + interval '3 seconds',
    i::text, true, CASE WHEN i % 1000 = 3 THEN 'backfill' ELSE 'webhook' END,
    CASE WHEN i % 1000 = 5 THEN 'redacted' END
FROM state, bytes
"""
_ATTACHMENTS = """
INSERT INTO attachments (
    email_id, position, source_url, file_name, declared_type, declared_size, status, sha256, size,
    detected_type, object_key, stored_at
) SELECT
    i, n, 'https://account.zendesk.com/attachments/token/' || md5(i::text) || '/?name=invoice.pdf', 'invoice.pdf',
    'application/pdf', 84000, status, hash, 84000, 'application/pdf', 'sha256/' || hash, now()
FROM generate_series(1, $1::bigint) AS i, generate_series(0, 2) AS n,
LATERAL (SELECT encode(sha256((i || ' ' || n)::bytea), 'hex') AS hash,
         CASE WHEN i % 100 = 7 THEN 'failed' WHEN $1 - i < {young} THEN 'pending' ELSE 'stored' END AS status) AS file
WHERE (i + 8) % 10 < 6 - 2 * n
"""
_ATTEMPTS = """
INSERT INTO attempts (email_id, number, worker, started_at, finished_at, outcome)
SELECT i, 1, 'worker.1', now(), CASE WHEN ended THEN now() END,
    CASE WHEN ended THEN CASE WHEN i % 100 = 7 THEN 'failed' ELSE 'completed' END END
FROM generate_series(1, $1::bigint) AS i, LATERAL (SELECT $1 - i >= {young} AS ended) AS attempt
WHERE $1 - i >= {waiting}
"""
_MESSAGES = """
INSERT INTO messages (
    email_id, comment_id, direction, "to", cc, text, text_size, has_html, record_sha256, record_key, record_size
) SELECT
    i, i::text, 'inbound', '[]', '[]', 'What became of my order?', 24, false, hash, 'sha256/' || hash, 900
FROM generate_series(1, $1::bigint) AS i, LATERAL (SELECT encode(sha256(i::text::bytea), 'hex') AS hash) AS record
"""
_ANNOUNCEMENTS = """
INSERT INTO announcements (email_id, idempotency_key, signature_hash, raw_body, raw_headers)
SELECT i, 'again:' || i, sha256(('again ' || i)::bytea), '{{}}', '[]' FROM generate_series(1, $1::bigint, 10) AS i
"""
_MERGED = """
INSERT INTO merged_emails (id, email_id, idempotency_key)
SELECT $1 + i, i, 'merged:' || i FROM generate_series(1, $1::bigint, 10) AS i
"""
# As `service/postgres/words` makes them; each word begins with the block of its e-mail.
_WORDS = """
INSERT INTO email_words (email_id, words)
SELECT i, (
    SELECT array_to_tsvector(array_agg(lpad(to_hex(i >> 14), 5, '0') || word))
    FROM unnest(array_cat(
        ARRAY['re', 'about', 'order', 'number', 'and', 'what', 'became', 'of', 'it', 'someone', i::text,
              (i * 7919 % ($1 / 3))::text, 'someone' || i || 'customerexample', 'customerexample', 'example'],
        CASE WHEN (i + 8) % 10 < 6 THEN ARRAY['invoicepdf', 'pdf'] ELSE '{{}}' END
    )) AS word
) FROM generate_series(1, $1::bigint) AS i
"""
# What Zendesk lists: each e-mail, and some that are missing here.
_SOURCES = """
INSERT INTO sources (account, account_id, complete_since, watermark, checked_at)
SELECT 'account.zendesk.com', '13000001', now() - $1::bigint * interval '{pause} seconds', now(), now()
"""
_SOURCE_EMAILS = """
INSERT INTO source_emails (account, ticket_id, comment_id, created_at)
SELECT 'account.zendesk.com', (i * 7919 % ($1 / 3))::text, CASE WHEN i % 5000 = 9 THEN 'missing ' ELSE '' END || i,
    date_trunc('second', now()) - ($1::bigint - i) * interval '{pause} seconds'
FROM generate_series(1, $1::bigint) AS i
"""
_SUSPENDED = """
INSERT INTO suspended_emails (
    account, suspended_id, text, files, created_at, gone_at, record_sha256, record_key, record_size
) SELECT
    'account.zendesk.com', i::text, 'Buy now', '[]', now() - i * interval '1 minute',
    CASE WHEN i > 200 THEN now() END, '', '', 0
FROM generate_series(1, 200 + $1::bigint / 10) AS i
"""
_QUARANTINED = """
INSERT INTO quarantined_webhooks (idempotency_key, raw_body, raw_headers, error_code, error, replayed_at)
SELECT 'invocation:' || i, sha512(i::text::bytea), '[]', 'not_json', 'It is no JSON.', CASE WHEN i > 100 THEN now() END
FROM generate_series(1, 200 + $1::bigint / 1000) AS i
"""
# The evidence of all this, in the order of the e-mails. The newest entries wait for their places in the tree. The hashes
# of nodes and heads are wrong, which changes nothing of what is read.
_ENTRIES = f"""
INSERT INTO evidence_entries (kind, email_id, subject, facts)
SELECT * FROM (
    {
    " UNION ALL ".join(
        f"SELECT '{kind}', {email_id} AS email_id, {subject}, {told(facts)} FROM {rows}"
        for kind, (rows, email_id, subject, facts) in ROWS.items()
    )
}
) AS entry ORDER BY email_id
"""  # noqa: S608 constants of ours
_LEAVES = f"""
INSERT INTO evidence_leaves (index, entry_id, hash)
SELECT id - 1, id, sha256('\\x00'::bytea || salt || convert_to(facts, 'UTF8')) FROM evidence_entries
WHERE id <= (SELECT max(id) - {2 * BATCH} FROM evidence_entries) ORDER BY id
"""  # noqa: S608 a number of ours
_NODES = """
INSERT INTO evidence_nodes (level, index, hash)
SELECT level, index, sha256(concat(level, ' ', index)::bytea)
FROM unnest(ARRAY[8, 16, 24]) AS level, (SELECT max(index) + 1 AS size FROM evidence_leaves) AS log,
    generate_series(0, (size >> level) - 1) AS index
"""
_LOG = """
INSERT INTO evidence_log (id, log_id, private_key, size, peaks, low, later_done_at, head_at)
SELECT 1, 'log', $1, size, substring(noise, 1, 32 * bit_count(size::bit(64))::int), size, now(), now()
FROM (SELECT max(index) + 1 AS size FROM evidence_leaves) AS log,
    (SELECT string_agg(sha512(i::text::bytea), NULL) AS noise FROM generate_series(1, 32) AS i) AS hashes
"""
# A head an hour, and a verification.
_HEADS = """
INSERT INTO evidence_heads (number, size, root, at, body, public_key, signature, stored_at)
SELECT number, $1::bigint * number / ($1 / 3600 + 1), '', now(), '{{}}', '', '', now()
FROM generate_series(1, $1::bigint / 3600 + 1) AS number
"""
# Holds of senders, and rules of which none makes anything due but the last one.
_HOLDS = """
INSERT INTO holds (name, reason, filter, set_by)
SELECT 'case-' || i, 'A lawsuit', json_build_object('sender', 'person' || i || '@customer.example'), 'ada'
FROM generate_series(1, 20) AS i WHERE $1 > 0
"""
_RULES = """
INSERT INTO retention_rules (position, name, filter, keep_days, includes_failed, created_by)
SELECT i, 'rule-' || i, CASE WHEN i < 5 THEN json_build_object('sender', 'person' || i || '@customer.example') ELSE '{{}}' END,
    CASE WHEN i < 5 THEN 3650 ELSE 0 END, i = 5, 'ada'
FROM generate_series(1, 5) AS i WHERE $1 > 0
"""
_TABLES = (
    *("attempts", "attachments", "email_words", "messages", "announcements", "merged_emails"),
    *("incoming_emails", "quarantined_webhooks", "source_emails", "suspended_emails", "sources"),
    *("evidence_entries", "evidence_leaves", "evidence_nodes"),
)


async def fill(database: asyncpg.Connection, emails: int, body: int = 600, pause: int = 1) -> None:
    """Insert e-mails into empty tables, one in `pause` seconds, with bodies of `body` bytes; then build the indexes."""
    numbers = {
        "received": RECEIVED,
        "queued": QUEUED,
        "claimed": CLAIMED,
        "expired": EXPIRED,
        "young": YOUNG,
        "to_sync": TO_SYNC,
        "waiting": RECEIVED + QUEUED,
        "body": body,
        "pause": pause,
    }
    create = await _drop_indexes(database)
    for statement in (
        _EMAILS,
        _ATTACHMENTS,
        _ATTEMPTS,
        _MESSAGES,
        _ANNOUNCEMENTS,
        _MERGED,
        _WORDS,
        _QUARANTINED,
        _SOURCES,
        _SOURCE_EMAILS,
        _SUSPENDED,
        _HEADS,
        _HOLDS,
        _RULES,
    ):
        await database.execute(statement.format(**numbers), emails)
    await database.execute("SET TIME ZONE 'UTC'")
    for statement in (_ENTRIES, _LEAVES, _NODES):
        await database.execute(statement)
    await database.execute(_LOG, new_key())
    for statement in create:
        await database.execute(statement)
    await database.execute("SELECT setval(pg_get_serial_sequence('incoming_emails', 'id'), $1)", emails)


async def settle(database: asyncpg.Connection) -> None:
    """Vacuum and analyze the tables, as autovacuum would."""
    for table in _TABLES:
        await database.execute(f"VACUUM (ANALYZE) {table}")


async def _drop_indexes(database: asyncpg.Connection) -> list[str]:
    """Drop indexes and keys, and return the statements that create them again."""
    constraints = await database.fetch(
        "SELECT conrelid::regclass AS on, conname AS name, pg_get_constraintdef(oid) AS definition FROM pg_constraint"
        " WHERE (conrelid::regclass::text = ANY($1) AND contype IN ('p', 'u', 'f'))"
        " OR (confrelid::regclass::text = ANY($1) AND contype = 'f') ORDER BY contype = 'f' DESC",
        _TABLES,
    )
    for row in constraints:
        await database.execute(f'ALTER TABLE {row["on"]} DROP CONSTRAINT "{row["name"]}"')
    indexes = await database.fetch(
        "SELECT indexname AS name, indexdef AS definition FROM pg_indexes WHERE tablename = ANY($1)", _TABLES
    )
    for row in indexes:
        await database.execute(f'DROP INDEX "{row["name"]}"')
    return [row["definition"] for row in indexes] + [
        f'ALTER TABLE {row["on"]} ADD CONSTRAINT "{row["name"]}" {row["definition"]}'
        for row in reversed(constraints)
    ]
