"""What differs from what is on record: all that runs found, and that nobody has put right or looked at again since."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.operations import DIFFERENCES

# Findings that one look reads; of the runs before them it has the counts.
MOST_READ = 20_000


@dataclass(frozen=True, slots=True)
class Differences:
    """How many are open, by kind, also the kinds of which there are none; and when somebody compared.

    There may be more, if not each was kept. A run under way compares too, once it has seen something and gets on.
    """

    by_kind: Mapping[str, int]
    may_be_more: bool
    compared_at: datetime | None

    @property
    def total(self) -> int:
        return sum(self.by_kind.values())


async def open_differences(conn: AsyncConnection) -> Differences:
    """Count what is open.

    What a run that is done found is open until a later one has a newer word of the same key, repaired it, or looked
    where it was and did not find it: a whole run looks everywhere, one of an hour at the documents of what came since
    then and at its part of the storage, one with `since` at the documents and files of what came since then. Only a
    verification looks into what has the right size. What a run counted and did not keep is open until a later one
    looked at all that it had looked at; of several such runs the largest number counts.
    """
    rows = (await conn.execute(_OPEN)).all()
    counts = {row.kind: int(row.number) for row in rows}
    by_kind = {kind: counts.get(kind, 0) for kind in DIFFERENCES}
    return Differences(by_kind, any(row.more for row in rows), await conn.scalar(_COMPARED_AT))


# A run may only have looked at what was found before it began. By `since` it looked at ids: at those from the first
# e-mail received then up to the last one there was, and at documents without an e-mail whose ids lie between. Whoever
# compares by hand may have no target set; if workers have none, there is none any more, and nothing in it differs.
_OPEN = text(f"""
WITH done AS MATERIALIZED (
    SELECT id, kind, since, part, targets, started_at, finished_at, counts, repaired,
        since IS NULL AND part IS NULL AS is_whole
    FROM reconciliations WHERE status = 'done'
), whole AS (
    SELECT max(started_at) FILTER (WHERE kind = 'reconcile' AND is_whole) AS compared_at,
        max(started_at) FILTER (WHERE kind = 'verify' AND is_whole) AS read_at,
        max(started_at) FILTER (
            WHERE kind = 'reconcile' AND CASE WHEN targets IS NULL THEN part IS NOT NULL ELSE is_whole END
        ) AS documents_at
    FROM done
), parts AS (
    SELECT part, max(started_at) AS compared_at FROM done WHERE part IS NOT NULL GROUP BY part
), since AS (
    SELECT id, has_begun,
        min(since) FILTER (WHERE has_begun AND kind = 'reconcile' AND targets IS NOT NULL) OVER later AS documents,
        min(since) FILTER (WHERE has_begun AND kind = 'reconcile' AND part IS NULL) OVER later AS files,
        min(since) FILTER (WHERE has_begun AND kind = 'verify') OVER later AS contents
    FROM (
        SELECT id, kind, since, part, targets, started_at AS at, true AS has_begun FROM done
        UNION ALL SELECT id, kind, since, part, targets, finished_at, false FROM done
    ) AS moment
    WINDOW later AS (ORDER BY at DESC, has_begun ROWS UNBOUNDED PRECEDING)
), remaining AS MATERIALIZED (
    SELECT id AS run_id, found.key AS kind,
        found.value::bigint - coalesce((repaired ->> found.key)::bigint, 0) AS number
    FROM done CROSS JOIN LATERAL json_each_text(counts) AS found (key, value)
    WHERE found.key IN ({", ".join(map(repr, DIFFERENCES))})
        AND found.value::bigint > coalesce((repaired ->> found.key)::bigint, 0)
), kept AS MATERIALIZED (
    SELECT run.id AS run_id, finding.*
    FROM (
        SELECT id FROM done JOIN whole ON true WHERE id IN (SELECT run_id FROM remaining)
            AND CASE kind WHEN 'verify' THEN finished_at < read_at
                ELSE finished_at < compared_at AND finished_at < documents_at END IS NOT TRUE
        ORDER BY id DESC
    ) AS run CROSS JOIN LATERAL (
        SELECT id, kind, key, detail ->> 'sha256' AS sha256,
            detail ->> 'size' IS DISTINCT FROM detail ->> 'expected_size' AS has_another_size,
            CASE WHEN email_id IS NOT NULL THEN email_id
                WHEN detail ->> 'email_id' ~ '^[0-9]{{1,18}}$' THEN (detail ->> 'email_id')::bigint END AS email_id
        FROM reconciliation_findings
        WHERE reconciliation_id = run.id AND repair IS NULL AND kind IN ({", ".join(map(repr, DIFFERENCES))})
        OFFSET 0  -- by the index, one run after the other, as far as is read
    ) AS finding
    LIMIT (SELECT {MOST_READ})
), said AS (
    SELECT run_id, kept.id, kept.kind, kept.key, NULL AS number,
        CASE WHEN (SELECT received_at FROM incoming_emails WHERE id >= email_id ORDER BY id LIMIT 1) <= finished_at
            THEN (SELECT received_at FROM incoming_emails WHERE id <= email_id ORDER BY id DESC LIMIT 1) END AS received_at,
        CASE WHEN sha256 ~ '^[0-9a-f]{{2}}' THEN ((('x' || left(sha256, 2))::bit(8)::int + 1) * 24 - 1) / 256 END AS part,
        done.kind = 'reconcile' OR kept.kind = 'object_missing' OR has_another_size AS is_told_by_size
    FROM kept JOIN done ON done.id = run_id
    UNION ALL
    SELECT run_id, NULL, remaining.kind, NULL, number - coalesce(read, 0),
        CASE WHEN part IS NULL OR remaining.kind NOT LIKE 'object%' THEN since END, part,
        done.kind = 'reconcile' OR remaining.kind = 'object_missing'
    FROM remaining LEFT JOIN (SELECT run_id, kind, count(*) AS read FROM kept GROUP BY run_id, kind) AS of_run
        USING (run_id, kind) JOIN done ON done.id = run_id
    WHERE number > coalesce(read, 0)
), newest AS (
    SELECT key, word.kind LIKE 'object%' AS is_object, max(word.id) AS id
    FROM (
        SELECT id, kind, key, repair, reconciliation_id FROM reconciliation_findings
        WHERE id > (SELECT min(id) FROM said) ORDER BY id DESC LIMIT (SELECT {MOST_READ})
    ) AS word LEFT JOIN done ON done.id = reconciliation_id
    WHERE repair IS NOT NULL OR done.id IS NOT NULL
    GROUP BY key, is_object
)
SELECT said.kind, count(DISTINCT said.key)
    + coalesce(max(number), 0) AS number, bool_or(said.key IS NULL) AS more
FROM said JOIN done ON done.id = run_id JOIN since ON since.id = run_id AND NOT has_begun
JOIN whole ON true LEFT JOIN parts ON parts.part = said.part
LEFT JOIN newest ON newest.key = said.key AND newest.is_object = (said.kind LIKE 'object%')
WHERE (newest.id > said.id) IS NOT TRUE AND (
    CASE WHEN said.kind LIKE 'object%' THEN
        whole.read_at > finished_at OR received_at >= since.contents OR is_told_by_size AND (
            whole.compared_at > finished_at OR received_at >= since.files OR parts.compared_at > finished_at
        )
    ELSE whole.documents_at > finished_at OR received_at >= since.documents END
) IS NOT TRUE
GROUP BY said.kind
""")  # noqa: S608 words and numbers of ours
_COMPARED_AT = text("""
SELECT greatest(
    (
        SELECT finished_at FROM reconciliations WHERE kind = 'reconcile' AND status = 'done'
        ORDER BY id DESC LIMIT 1
    ),
    (
        SELECT seen_at FROM reconciliations
        WHERE kind = 'reconcile' AND status = 'running' AND emails + objects > 0
    )
)
""")
