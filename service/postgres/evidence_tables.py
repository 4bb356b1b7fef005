"""The tables of evidence: recorded facts, their places in a Merkle tree, signed heads of that tree, and verifications."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Sequence,
    SmallInteger,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.postgres.email_tables import Base

# A number is taken after its transaction has an id: the sequencer relies on it to know which numbers are still to come.
NEXT_ENTRY = (
    "CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('evidence_entries_id_seq'::regclass) END"
)
NUMBERS = Sequence("evidence_entries_id_seq", metadata=Base.metadata)
NEW_SALT = "uuid_send(gen_random_uuid())"


class EvidenceEntry(Base):
    """One fact, written in the transaction of the fact. An erasure takes salt and facts away, and leaves the hash."""

    __tablename__ = "evidence_entries"

    id: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False, server_default=text(NEXT_ENTRY)
    )
    kind: Mapped[str]
    email_id: Mapped[int | None] = mapped_column(BigInteger)
    subject: Mapped[int | None] = mapped_column(BigInteger)  # the file's position, or the id of another row
    salt: Mapped[bytes | None] = mapped_column(LargeBinary, server_default=text(NEW_SALT))
    facts: Mapped[str | None]  # JSON: the bytes that are hashed
    hash: Mapped[bytes | None] = mapped_column(LargeBinary)  # of an erased entry alone

    __table_args__ = (
        Index("ix_evidence_entries_email", "email_id", "id", postgresql_where=text("email_id IS NOT NULL")),
        Index("ix_evidence_entries_act", "subject", "id", postgresql_where=text("kind = 'act'")),
    )


class EvidenceLeaf(Base):
    """The place of an entry in the tree."""

    __tablename__ = "evidence_leaves"

    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    entry_id: Mapped[int] = mapped_column(BigInteger, unique=True)
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class EvidenceNode(Base):
    """The hash of a complete subtree of 256, 65,536 … leaves: a proof reads these instead of all leaves."""

    __tablename__ = "evidence_nodes"

    level: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class EvidenceLog(Base):
    """The state of the log, in one row; its lock lets one process at a time extend the tree."""

    __tablename__ = "evidence_log"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)  # 1
    log_id: Mapped[str]  # tells the heads of this log from those of others
    began_at: Mapped[datetime] = mapped_column(server_default=func.now())
    private_key: Mapped[bytes] = mapped_column(LargeBinary)  # signs where EVIDENCE_KEY is not set
    size: Mapped[int] = mapped_column(BigInteger, server_default="0")  # leaves
    peaks: Mapped[bytes] = mapped_column(LargeBinary)  # the frontier of the tree, 32 bytes each
    # All entries up to `low` have a leaf, or never come. Those up to `next_low` were begun by transactions up to `next_xid`.
    low: Mapped[int] = mapped_column(BigInteger, server_default="0")
    next_low: Mapped[int | None] = mapped_column(BigInteger)
    next_xid: Mapped[int | None] = mapped_column(BigInteger)
    # Rows from before the log are recorded later: the place, and when all of them were.
    later_place: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    later_done_at: Mapped[datetime | None]
    head_at: Mapped[datetime | None]
    mailed_at: Mapped[datetime | None]


class EvidenceHead(Base):
    """A signed head: size and root of the tree at a time. `body` holds the signed bytes."""

    __tablename__ = "evidence_heads"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    size: Mapped[int] = mapped_column(BigInteger)
    root: Mapped[bytes] = mapped_column(LargeBinary)
    at: Mapped[datetime]
    body: Mapped[str]
    public_key: Mapped[bytes] = mapped_column(LargeBinary)
    signature: Mapped[bytes] = mapped_column(LargeBinary)
    object_key: Mapped[str | None]  # where the storage has it
    stored_at: Mapped[datetime | None]
    mailed_at: Mapped[datetime | None]
    stamp: Mapped[bytes | None] = mapped_column(
        LargeBinary
    )  # the answer of a time stamp authority (RFC 3161)
    stamped_at: Mapped[datetime | None]
    stamp_error: Mapped[str | None]

    __table_args__ = (
        Index("ix_evidence_heads_not_stored", "number", postgresql_where=text("stored_at IS NULL")),
    )


class EvidenceVerification(Base):
    """One verification: its progress, for a later call to continue, and its findings."""

    __tablename__ = "evidence_verifications"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    began_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    with_objects: Mapped[bool]
    lease_until: Mapped[datetime | None]  # the lease of the process that takes the steps
    place: Mapped[Any]
    counts: Mapped[Any]
    findings: Mapped[Any]
