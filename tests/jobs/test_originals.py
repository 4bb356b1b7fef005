"""When originals are asked for again."""

import asyncpg

from service.config.settings import Settings
from service.jobs import originals


async def test_no_table_is_read_to_learn_that_zendesk_gave_no_original(
    settings: Settings, database: asyncpg.Connection
) -> None:
    """Before there are statistics, too: an account that gives none asks this with each e-mail."""
    await database.execute(
        "INSERT INTO incoming_emails (idempotency_key, zendesk_ticket_id) SELECT i, 1 FROM generate_series(1, 20000) AS i"
    )
    await database.execute("""
        INSERT INTO messages (
            email_id, comment_id, direction, "to", cc, text, text_size, has_html, record_sha256, record_key, record_size
        ) SELECT id, id, 'inbound', '[]', '[]', '', 0, false, id, id, 1 FROM incoming_emails
    """)
    sql = str(originals._PUT_OFF)
    for name, value in {
        ":email_ids": "ARRAY[1]::bigint[]",
        ":pauses": "ARRAY[interval '1 h']",
        ":are_asked": "ARRAY[false]",
    }.items():
        sql = sql.replace(name, value)

    plan = "\n".join(row[0] for row in await database.fetch(f"EXPLAIN {sql}"))

    assert "ix_messages_original_sha256" in plan
    assert "Seq Scan" not in plan
