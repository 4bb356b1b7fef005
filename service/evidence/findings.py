"""What a verification found: each finding is a code, a sentence, and the e-mail that it is about."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Findings that are kept; all are counted.
MOST_KEPT = 1_000

# The codes, and what each of them means.
CODES = {
    "entry_missing": "a leaf of the tree has no entry",
    "entry_changed": "an entry is not what its leaf was made of",
    "entry_not_placed": "an entry has been without a place in the tree for an hour",
    "leaf_missing": "a leaf of the tree is missing",
    "node_changed": "a stored node of the tree is not the hash of its leaves",
    "frontier_changed": "the state of the log does not fit the leaves",
    "time_out_of_order": "an entry's time does not fit the heads before and after it",
    "root_differs": "the leaves do not lead to the root of a signed head",
    "head_missing": "a head is missing",
    "head_changed": "a head was changed, or its signature is wrong",
    "head_key_unknown": "a head is signed with a key that is not trusted",
    "head_not_in_storage": "the storage lacks a head that was put there",
    "head_differs_in_storage": "the storage has another head of this number",
    "head_only_in_storage": "the storage has a head that Postgres lacks: Postgres was set back",
    "other_log": "the storage has heads of another log",
    "stamp_wrong": "a time stamp is not about its head",
    "email_missing": "an e-mail was deleted outside of Holdfast",
    "email_is_back": "an e-mail is present that was removed",
    "row_missing": "a row that was logged is missing",
    "row_changed": "a row is not what was logged",
    "row_not_logged": "a row was never logged",
    "logged_twice": "an e-mail was accepted twice with different contents",
    "erased_but_present": "a row is present that was erased",
    "object_missing": "the storage lacks an object",
    "object_changed": "an object has other bytes",
}


def read_facts(facts: str | None) -> dict[str, Any]:
    """Read facts; those that somebody changed may be anything."""
    try:
        found = json.loads(facts or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class Finding:
    """A contradiction between the rows and the log."""

    code: str
    message: str
    email_id: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the finding as JSON."""
        about = {} if self.email_id is None else {"email_id": self.email_id}
        return {"code": self.code, "message": self.message, **about}


@dataclass
class Report:
    """The findings and counts of a verification so far."""

    counts: dict[str, int] = field(default_factory=dict)
    findings: list[Mapping[str, Any]] = field(default_factory=list)

    def count(self, what: str, number: int = 1) -> None:
        """Add to a count."""
        self.counts[what] = self.counts.get(what, 0) + number

    def add(self, *found: Finding) -> None:
        """Add findings; beyond the most, they are only counted."""
        for each in found:
            self.count("findings")
            if len(self.findings) < MOST_KEPT:
                self.findings.append(each.as_json())
