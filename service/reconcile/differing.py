"""Say in what a document differs from what would be written, and keep what it says."""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from service.reconcile.expected import State
from service.reconcile.outages import ask, patiently
from service.resources import Resources
from service.targets.document import SOURCE, comparable, make_document, permanent_links, read_records, to_json
from service.targets.mongodb import Collection, FoundDocument, copy_of

# Of one step; where a new version of ours writes other documents, all of them differ, and in the same.
MOST_TOLD = 20


async def in_what(res: Resources, there: Collection, state: State) -> Mapping[str, Any]:
    """Name the fields that differ, and give a copy of the document; nothing of one that is neither there nor ours."""
    records = await ask(res, lambda conn: read_records(conn, [state.email_id]))
    found = await patiently(lambda: _one(there, state.key))
    record = records.get(state.email_id)
    if record is None or found is None:
        return {}
    made = make_document(record, permanent_links(record, res.settings.public_url)).content
    has_links = res.settings.sync_links == "api"
    ours, theirs = (comparable(each, with_links=has_links) for each in (made, found))
    names = sorted(
        name
        for name in {*ours, *theirs} - {"_id"}
        if to_json(ours.get(name), sort_keys=True) != to_json(theirs.get(name), sort_keys=True)
    )
    whose = {} if found.get("source") == SOURCE else {"is_ours": False}
    return {"fields": names, "document": copy_of(found), **whose}


async def _one(there: Collection, key: str) -> FoundDocument | None:
    async with aclosing(there.with_keys([key])) as batches:
        async for some in batches:
            return some[0] if some else None
    return None
