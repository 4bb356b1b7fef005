"""The table of a previous system: its columns and constraints, and the changes that Holdfast needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.email_tables import IncomingEmail

# The migration that creates the table; the next one adds only missing columns.
FIRST = "20250901_0900"
TRIGGER = "holdfast_takeover"
# Columns that a previous system may already fill, with our types and defaults.
WANTED: Mapping[str, tuple[str, str | None]] = {
    "zendesk_ticket_id": ("text", None),
    "from_email": ("text", None),
    "from_name": ("text", None),
    "subject": ("text", None),
    "processing_status": ("text", "'received'"),
    "processing_error": ("text", None),
    "received_at": ("timestamptz", "now()"),
    "sync_status": ("text", "'pending'"),
    "sync_error": ("text", None),
    "sync_retry_count": ("integer", "0"),
    "idempotency_key": ("text", "gen_random_uuid()::text"),
    "started_at": ("timestamptz", None),
    "completed_at": ("timestamptz", None),
    "retry_count": ("integer", "0"),
    "attachment_urls": ("json", None),
}
# Without a value in these, an e-mail cannot be listed, claimed or synced.
REQUIRED = (
    "zendesk_ticket_id",
    "processing_status",
    "received_at",
    "idempotency_key",
    "retry_count",
    "sync_retry_count",
)
NO_TEXT = "''"
# Types that need no conversion.
_COMPATIBLE = {
    "text": {"text", "varchar", "citext"},
    "integer": {"int2", "int4", "int8"},
    "timestamptz": {"timestamptz"},
    "json": {"json", "jsonb"},
}
_OUR_INDEXES = {"uq_incoming_emails_comment"}
_OUR_CHECKS = {"ck_incoming_emails_processing_status", "ck_incoming_emails_sync_status"}
# Inserts without these columns fail if the previous system's default is an unknown state.
_EXACT_DEFAULTS = {"processing_status"}


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column in the catalog; `max_length` is in characters."""

    name: str
    type: str  # without its length
    shown_type: str
    max_length: int | None
    is_required: bool
    default: str | None
    is_generated: bool  # by Postgres
    is_key: bool  # part of the primary key


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint, or a unique index without a constraint."""

    name: str
    kind: str  # c for CHECK, f for a foreign key, u for UNIQUE, x for an exclusion, i for an index
    columns: frozenset[str]
    is_whole: bool  # valid, and without a WHERE clause


@dataclass(slots=True)
class ExistingTable:
    """The table and its changes: parts of one ALTER TABLE, statements before it, and sentences for the user."""

    kind: str  # relkind: r for an ordinary table
    columns: dict[str, TableColumn]
    constraints: list[Constraint]
    has_trigger: bool
    before: list[str] = field(default_factory=list)  # statements
    changes: list[str] = field(default_factory=list)  # parts of ALTER TABLE
    added: list[str] = field(default_factory=list)  # columns
    descriptions: list[str] = field(default_factory=list)  # sentences
    lifted: list[str] = field(default_factory=list)  # columns that lose their length limit
    nullable: list[str] = field(default_factory=list)  # columns that lose NOT NULL
    stops: list[str] = field(default_factory=list)

    @property
    def has_unique_key(self) -> bool:
        key = frozenset({"idempotency_key"})
        return any(each.kind in "ui" and each.columns == key and each.is_whole for each in self.constraints)

    @property
    def sentences(self) -> list[str]:
        """Describe the changes."""
        steps = [*self.descriptions]
        if self.lifted:
            steps.append(f"Remove the length limits of {', '.join(self.lifted)}.")
        if self.nullable:
            steps.append(f"Allow NULL in {', '.join(self.nullable)}.")
        return steps

    def change(self, part: str, sentence: str) -> None:
        """Add a part of ALTER TABLE and its description."""
        self.changes.append(part)
        self.descriptions.append(sentence)


async def read_table(conn: AsyncConnection) -> ExistingTable:
    """Read `incoming_emails` from the catalog."""
    kind = await conn.scalar(
        text("SELECT relkind::text FROM pg_class WHERE oid = 'incoming_emails'::regclass")
    )
    columns = {row.name: TableColumn(*row) for row in await conn.execute(_COLUMNS)}
    constraints = [
        Constraint(row[0], row[1], frozenset(row[2]), row[3]) for row in await conn.execute(_CONSTRAINTS)
    ]
    return ExistingTable(str(kind), columns, constraints, bool(await conn.scalar(_TRIGGER)))


def adapt(table: ExistingTable, *, is_foreign: bool) -> None:
    """Add the necessary changes to the table; `is_foreign` until it has Holdfast's revision."""
    if table.kind != "r":
        table.stops.append(
            "incoming_emails is not an ordinary table: Holdfast cannot take over views or partitions."
        )
        return
    _adapt_id(table)
    if is_foreign:
        _rename(table)
    for name, (kind, default) in WANTED.items():
        if name == "sync_status" and not is_foreign:
            continue  # a migration has already replaced it
        if name in table.columns:
            _adapt(table, table.columns[name], kind, default)
        elif is_foreign:  # otherwise a migration adds it
            _add(table, name, kind, default)
    for column in table.columns.values():
        _relax(table, column)
    _drop_constraints(table, is_foreign=is_foreign)


def quote(name: str) -> str:
    """Quote a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _adapt_id(table: ExistingTable) -> None:
    column = table.columns.get("id")
    if column is None or column.type not in _COMPATIBLE["integer"]:
        found = f"has the type {column.shown_type}" if column else "is missing"
        table.stops.append(
            f"The column id {found}, but Holdfast needs integers: rename it, and add one"
            " (ALTER TABLE incoming_emails ADD COLUMN id bigint GENERATED BY DEFAULT AS IDENTITY UNIQUE)."
        )
        return
    if not any(each.kind in "ui" and each.columns == {"id"} and each.is_whole for each in table.constraints):
        table.change("ADD UNIQUE (id)", "Make id unique.")
    if column.default is None and not column.is_generated:
        table.change(
            "ALTER id ADD GENERATED BY DEFAULT AS IDENTITY", "Let Postgres generate the ids of new rows."
        )


def _rename(table: ExistingTable) -> None:
    """Rename columns that have the name of another column of Holdfast; their values stay."""
    ours = {column.name for column in IncomingEmail.__table__.columns} - {"id", *WANTED}
    for name in sorted(ours & table.columns.keys()):
        kept = f"{name}_before"
        if kept in table.columns:
            table.stops.append(f"The column {name} is needed, and {kept} exists: rename one of them.")
            continue
        table.before.append(f"ALTER TABLE incoming_emails RENAME COLUMN {name} TO {kept}")
        table.descriptions.append(
            f"Rename the column {name} to {kept}, because Holdfast uses the name; the previous system can no longer"
            " write it."
        )
        column = table.columns.pop(name)
        renamed = (kept, *(getattr(column, each) for each in TableColumn.__slots__[1:]))
        table.columns[kept] = TableColumn(*renamed)


def _add(table: ExistingTable, name: str, kind: str, default: str | None) -> None:
    table.added.append(name)
    if name == "received_at":  # existing rows get their time of creation, if known
        table.change(f"ADD COLUMN {name} {kind}", f"Add the column {name}.")
        table.changes.append(f"ALTER {name} SET DEFAULT {default}")
        return
    value = f" DEFAULT {default}" if default else ""
    if name in REQUIRED:
        value = f" NOT NULL DEFAULT {default or NO_TEXT}"
    table.change(f"ADD COLUMN {name} {kind}{value}", f"Add the column {name}.")


def _adapt(table: ExistingTable, column: TableColumn, kind: str, default: str | None) -> None:
    if column.type not in _COMPATIBLE[kind] or column.max_length is not None:
        _retype(table, column, kind, default)
    elif default is not None and not _has_default(column, default):
        table.change(
            f"ALTER {column.name} SET DEFAULT {default}", f"Set the default of {column.name} to {default}."
        )


def _retype(table: ExistingTable, column: TableColumn, kind: str, default: str | None) -> None:
    name, kept = column.name, column.default
    if default is None and kept is not None and kind != "json":
        default = kept.partition("::")[0]  # the literal without its type
    if kept is not None:
        table.changes.append(f"ALTER {name} DROP DEFAULT")
    table.changes.append(f"ALTER {name} TYPE {kind}{_conversion(column, kind)}")
    if default is not None:
        table.changes.append(f"ALTER {name} SET DEFAULT {default}")
    if column.type == "varchar" and kind == "text":
        table.lifted.append(f"{name} ({column.max_length} characters)")
        return
    how = (
        "with times in UTC"
        if (column.type, kind) == ("timestamp", "timestamptz")
        else "which rewrites the table under a lock"
    )
    table.descriptions.append(f"Change the type of {name} from {column.shown_type} to {kind}, {how}.")


def _conversion(column: TableColumn, kind: str) -> str:
    """Return the USING clause of a conversion; without one, Postgres need not rewrite the table."""
    if column.type == "timestamp" or (column.type, kind) == ("varchar", "text"):
        return ""  # the session is in UTC, so the values stay the same
    if kind == "json":
        if column.type in {"text", "varchar", "bpchar"}:
            return f" USING pg_temp.holdfast_as_json({column.name}::text)"
        return f" USING to_json({column.name})"
    return f" USING {column.name}::{kind}"


def _has_default(column: TableColumn, default: str) -> bool:
    if column.name in _EXACT_DEFAULTS:
        return (column.default or "").startswith(default)
    return column.default is not None


def _relax(table: ExistingTable, column: TableColumn) -> None:
    """Drop NOT NULL of columns that Holdfast does not always write."""
    is_ours = column.name in IncomingEmail.__table__.columns
    is_nullable = bool(is_ours and IncomingEmail.__table__.columns[column.name].nullable)
    has_value = column.default is not None or column.is_generated or column.is_key
    if column.is_required and (is_nullable or not (is_ours or has_value)):
        table.changes.append(f"ALTER {quote(column.name)} DROP NOT NULL")
        table.nullable.append(column.name)


def _drop_constraints(table: ExistingTable, *, is_foreign: bool) -> None:
    """Drop constraints on columns that Holdfast writes."""
    ours = {column.name for column in IncomingEmail.__table__.columns}
    for each in table.constraints:
        if each.kind in "cf":
            is_in_the_way = each.columns & ours and (is_foreign or each.name not in _OUR_CHECKS)
        else:
            are_kept = {"id", "idempotency_key", "signature_hash"}
            is_in_the_way = (
                each.columns & ours and each.columns.isdisjoint(are_kept) and each.name not in _OUR_INDEXES
            )
        if not is_in_the_way:
            continue
        about = f"{', '.join(sorted(each.columns))}: Holdfast writes values that violate it."
        if each.kind == "i":
            table.before.append(f"DROP INDEX {quote(each.name)}")
            table.descriptions.append(f"Drop the unique index {each.name} of {about}")
        else:
            table.change(f"DROP CONSTRAINT {quote(each.name)}", f"Drop the constraint {each.name} of {about}")


_COLUMNS = text("""
    SELECT attname AS name, typname, format_type(atttypid, atttypmod),
        CASE WHEN typname IN ('varchar', 'bpchar') AND atttypmod > 4 THEN atttypmod - 4 END,
        attnotnull, pg_get_expr(adbin, adrelid), attidentity <> '' OR attgenerated <> '',
        EXISTS (SELECT FROM pg_index WHERE indrelid = attrelid AND indisprimary AND attnum = ANY(indkey))
    FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = 'incoming_emails'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
""")
_CONSTRAINTS = text("""
    SELECT conname, contype::text, ARRAY(
        SELECT attname::text FROM pg_attribute WHERE attrelid = conrelid AND attnum = ANY(conkey)
    ), convalidated FROM pg_constraint
    WHERE conrelid = 'incoming_emails'::regclass AND contype IN ('c', 'f', 'u', 'x')
    UNION ALL
    SELECT relname, 'i', ARRAY(
        SELECT attname::text FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY(indkey)
    ), indisvalid AND indpred IS NULL AND indexprs IS NULL FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE indrelid = 'incoming_emails'::regclass AND indisunique
        AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND contype IN ('u', 'x'))
""")
_TRIGGER = text(
    f"SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'incoming_emails'::regclass AND tgname = '{TRIGGER}')"  # noqa: S608 a name of ours
)
