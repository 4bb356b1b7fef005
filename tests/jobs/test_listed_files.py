"""Which known file a listed one is, and what Zendesk's list changes of it."""

from dataclasses import replace
from typing import Any

import pytest

from service.jobs.attachments import FileRecord
from service.jobs.listed_files import changes
from service.zendesk.messages import ListedFile

HOST = "https://acme.zendesk.com/attachments/token"
DEAD, FRESH, OTHER = (f"{HOST}/{token}/?name=a.pdf" for token in ("dead", "fresh", "other"))
# As an event announces it: without a size.
KNOWN = FileRecord(0, DEAD, "a.pdf", None, None, "pending", "not_found", "It is not there.")
LISTED = ListedFile(FRESH, "a.pdf", "application/pdf", 3, zendesk_id="9")


def places(known: list[FileRecord], *listed: ListedFile) -> list[tuple[int, str]]:
    return [(row["position"], row["source_url"]) for row in changes(known, listed)]


@pytest.mark.parametrize(
    "known",
    [
        KNOWN,
        replace(KNOWN, error_code=None, error=None),
        replace(KNOWN, status="failed"),
        replace(KNOWN, file_name=" A.PDF"),
        replace(KNOWN, declared_size=3),
        replace(KNOWN, declared_size=4, zendesk_id="9"),
        replace(KNOWN, status="stored", size=3),
    ],
    ids=["dead", "not tried", "failed", "in capitals", "of this size", "of this id", "stored"],
)
def test_a_fresh_address_is_one_of_the_same_file(known: FileRecord) -> None:
    assert places([known], LISTED) == [(0, FRESH)]


@pytest.mark.parametrize(
    "known",
    [
        replace(KNOWN, file_name="b.pdf"),
        replace(KNOWN, file_name=None),
        replace(KNOWN, declared_size=4),
        replace(KNOWN, zendesk_id="8"),
        replace(KNOWN, status="stored", size=4),
    ],
    ids=["another name", "no name", "another size", "another id", "another content"],
)
def test_another_file_is_added(known: FileRecord) -> None:
    assert places([known], LISTED) == [(1, FRESH)]


def test_a_file_keeps_its_address_beside_one_of_the_same_name() -> None:
    alive = replace(KNOWN, source_url=OTHER, error_code=None)
    dead = replace(KNOWN, position=1)
    same = replace(LISTED, url=OTHER, zendesk_id="8")

    assert places([alive, dead], LISTED, same) == [(1, FRESH), (0, OTHER)]
    assert places([alive], LISTED, same) == [(1, FRESH), (0, OTHER)]


@pytest.mark.parametrize(
    ("listed", "size"),
    [
        ({}, 3),
        ({"size": None}, 4),
        ({"size": 0, "is_gone": True}, 4),
    ],
    ids=["told", "not told", "of the redaction"],
)
def test_the_size_that_zendesk_tells_for_the_file_counts(listed: dict[str, Any], size: int) -> None:
    known = replace(KNOWN, source_url=FRESH, declared_size=4)

    (row,) = changes([known], [replace(LISTED, **listed)])

    assert row["declared_size"] == size


def test_a_failed_file_is_fetched_from_its_new_address() -> None:
    (row,) = changes([replace(KNOWN, status="failed")], [LISTED])

    assert (row["status"], row["error_code"], row["is_new"]) == ("pending", None, True)
