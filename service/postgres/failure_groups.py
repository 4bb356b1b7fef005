"""The groups of failed e-mails that nobody dismissed, each of one code and one host, by a loose scan of their index."""

from service.postgres.email_tables import OPEN_FAILED

MAX_CODES = 300  # all of ours fit
# Of each code. Senders can make up any number of host names: these must hide no other code.
MAX_HOSTS = 100

_CODE, _HOST = "coalesce(error_code, '')", "coalesce(error_host, '')"
_FAILED = f"FROM incoming_emails WHERE {OPEN_FAILED}"
# The beginning of a statement, which goes on with a SELECT from `kind (code, host)`.
WITH_KINDS = f"""
WITH RECURSIVE every AS (
    (SELECT {_CODE} AS code, 1 AS place {_FAILED} ORDER BY {_CODE}, {_HOST} LIMIT 1)
    UNION ALL
    SELECT next.code, every.place + 1 FROM every CROSS JOIN LATERAL (
        SELECT {_CODE} AS code {_FAILED} AND {_CODE} > every.code ORDER BY {_CODE}, {_HOST} LIMIT 1
    ) AS next
    WHERE every.place < {MAX_CODES}
), kind AS (
    SELECT every.code, own.host FROM every CROSS JOIN LATERAL (
        WITH RECURSIVE own AS (
            (SELECT {_HOST} AS host, 1 AS place {_FAILED} AND {_CODE} = every.code ORDER BY {_CODE}, {_HOST} LIMIT 1)
            UNION ALL
            SELECT next.host, own.place + 1 FROM own CROSS JOIN LATERAL (
                SELECT {_HOST} AS host {_FAILED} AND {_CODE} = every.code AND {_HOST} > own.host
                ORDER BY {_CODE}, {_HOST} LIMIT 1
            ) AS next
            WHERE own.place < {MAX_HOSTS}
        )
        SELECT own.host FROM own
    ) AS own
)"""  # noqa: S608 numbers and words of ours
