"""Which rows name a content: every column that holds the hash of an object is listed here.

A removal asks this before it removes an object. A column that is missing here would lose its objects.
"""

from collections.abc import Sequence

from sqlalchemy import Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

# Tables and columns of one hash each, with an index; also contents whose object was lost.
NAMING = (("attachments", "sha256"), ("messages", "record_sha256"), ("messages", "original_sha256"))


async def known_contents(conn: AsyncConnection, hashes: Sequence[str]) -> set[str]:
    """Return the hashes that belong to a file, a message or a suspended e-mail, also to one whose object was lost.

    The copy of a damaged object belongs to its finding.
    """
    return set(await conn.scalars(_KNOWN, {"hashes": list(hashes)}))


async def has_no_contents(conn: AsyncConnection) -> bool:
    """Return whether no row names any content; before the first migration, there are no tables."""
    tables = set(await conn.scalars(_TABLES, {"names": [table for table, _ in _ANY]}))
    return not any([await conn.scalar(statement) for table, statement in _ANY if table in tables])


_TABLES = text("SELECT name FROM unnest(:names) AS name WHERE to_regclass(name) IS NOT NULL").bindparams(
    bindparam("names", type_=ARRAY(Text))
)
_ANY = [
    (table, text(f"SELECT EXISTS (SELECT FROM {table} WHERE {column} IS NOT NULL)"))  # noqa: S608 constants of ours
    for table, column in (*NAMING, ("suspended_emails", "record_sha256"))
]
_IS_KNOWN = " OR ".join(f"EXISTS (SELECT FROM {table} WHERE {column} = hash)" for table, column in NAMING)
_IS_SUSPENDED = "hash IN (SELECT unnest(contents) FROM suspended_emails WHERE contents && :hashes)"
# The key of the copy, as `storage.spool.object_key` makes it. Findings of other kinds may hold a NUL, which `->>` refuses.
_IS_KEPT = """EXISTS (
    SELECT FROM reconciliation_findings
    WHERE kind = 'object_damaged' AND detail ->> 'kept_as' = concat('sha256/', left(hash, 2), '/', substr(hash, 3))
)"""
_KNOWN = text(f"""
SELECT hash FROM unnest(:hashes) AS hash WHERE {_IS_KNOWN} OR {_IS_SUSPENDED} OR {_IS_KEPT}
""").bindparams(bindparam("hashes", type_=ARRAY(Text)))  # noqa: S608 constants of ours
