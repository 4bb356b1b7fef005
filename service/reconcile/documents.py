"""Compare the e-mails on record with the documents in the target, some at a time, by their ids."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from service.errors import Permanent
from service.reconcile.differing import MOST_TOLD, in_what
from service.reconcile.expected import STEP, State, digests, known_keys, states_from, states_of
from service.reconcile.finding import Finding
from service.reconcile.outages import ask, patiently
from service.resources import Resources
from service.targets.document import SOURCE, digest
from service.targets.mongodb import MAX_ID, MIN_ID, Collection, FoundDocument

# Rows and documents move while they are read; what looks wrong is looked at again.
SECOND_LOOK_SECONDS = 0.2
# Documents that one step holds in memory. Where there are more, those of e-mails are found by their keys, and the
# rest is found once these are gone.
MOST_READ = 10 * STEP
# What is looked at before anything is removed; of fewer, none may have an e-mail indeed.
SAMPLE, LEAST_SAMPLE = 100, 8


@dataclass(frozen=True, slots=True)
class There:
    """A document that is in the target."""

    found_key: Any
    version: Any
    is_ours: bool
    digest: str
    email_id: Any

    @property
    def key(self) -> str:
        return self.found_key if isinstance(self.found_key, str) else repr(self.found_key)


@dataclass(slots=True)
class Step:
    """What came of comparing some e-mails: `wrong` are as they were compared, by the keys of their findings."""

    end: int = 0
    emails: int = 0
    documents: int = 0
    unfinished: int = 0
    findings: list[Finding] = field(default_factory=list)
    wrong: dict[str, State] = field(default_factory=dict)


async def compare_step(res: Resources, there: Collection, first: int, last: int, *, is_whole: bool) -> Step:
    """Compare the next e-mails from `first` on, and all documents among them.

    The whole of a collection ends neither at the first e-mail nor at the last one.
    """
    states = await ask(res, lambda conn: states_from(conn, first, last))
    end = states[-1].email_id + 1 if len(states) == STEP else last
    span = (MIN_ID if is_whole and first == 0 else first, MAX_ID if is_whole and end == last else end)
    documents = await patiently(lambda: _read(res, there.between(*span)))
    step = Step(end, len(states), len(documents))
    step.unfinished = sum(state.is_on_its_way for state in states)
    settled = [state.email_id for state in states if not state.is_on_its_way]
    expected = await ask(res, lambda conn: digests(conn, settled, res.settings)) if settled else {}
    doubtful = [state for state in states if _judge(state, documents.get(state.key), expected)]
    own = {state.key for state in states}
    strange = [document for key, document in documents.items() if key not in own]
    if doubtful or strange:
        await asyncio.sleep(SECOND_LOOK_SECONDS)
    if doubtful:
        await _look_again(res, there, [state.email_id for state in doubtful], step)
    step.findings += await without_email(res, strange)
    return step


async def compare_nameless(res: Resources, there: Collection) -> Step:
    """Find the documents that name no e-mail by its number, which no range has."""
    documents = await patiently(lambda: _read(res, there.without_email_id()))
    return Step(documents=len(documents), findings=await without_email(res, [*documents.values()]))


async def without_email(res: Resources, documents: Sequence[There]) -> list[Finding]:
    """Tell of documents whose key is no e-mail's; one whose e-mail has another number is found with that."""
    keys = [document.key for document in documents if isinstance(document.found_key, str)]
    known = (
        await ask(res, lambda conn: known_keys(conn, [key for key in keys if "\0" not in key]))
        if keys
        else set()
    )
    return [
        Finding(
            "extra" if document.is_ours else "foreign",
            document.key,
            detail=_said(document),
            found_key=document.found_key,
        )
        for document in documents
        if not isinstance(document.found_key, str) or document.key not in known
    ]


async def see_that_it_is_ours(res: Resources, there: Collection) -> None:
    """Raise Permanent if most of our documents have no e-mail: then another database's are looked at, or another's.

    To remove all of them would empty the collection of whoever put them there.
    """
    drawn = await patiently(lambda: there.sample(SAMPLE))
    keys = [str(each["_id"]) for each in drawn if each.get("source") == SOURCE]
    known = await ask(res, lambda conn: known_keys(conn, [key for key in keys if "\0" not in key]))
    if len(keys) >= LEAST_SAMPLE and 2 * len(known) < len(keys):
        looked = (
            f"of {len(keys)} documents of ours that were looked at, {len(keys) - len(known)} have no e-mail"
        )
        doubt = "are SYNC_URL and DATABASE_URL those that belong together?"
        forced = "To remove them all the same, add --force to `holdfast reconcile --fix`."
        raise Permanent("target_is_another", f"{looked}: {doubt} {forced}")


async def _look_again(res: Resources, there: Collection, email_ids: Sequence[int], step: Step) -> None:
    """Note what is wrong with e-mails that nobody carried or ran while they and their documents were read."""
    before = await ask(res, lambda conn: states_of(conn, email_ids))
    expected = await ask(res, lambda conn: digests(conn, email_ids, res.settings))
    documents = await patiently(lambda: _read(res, there.with_keys([state.key for state in before])))
    after = {state.email_id: state for state in await ask(res, lambda conn: states_of(conn, email_ids))}
    for state in before:
        document = documents.get(state.key)
        if state == after.get(state.email_id) and (kind := _judge(state, document, expected)):
            detail: dict[str, Any] = {
                "version": state.version,
                "there": _said(document) if document else None,
            }
            if kind == "different" and sum(each.kind == kind for each in step.findings) < MOST_TOLD:
                detail |= await in_what(res, there, state)
            step.findings.append(Finding(kind, state.key, state.email_id, detail, found_key=state.key))
            step.wrong[state.key] = state


def _judge(state: State, document: There | None, expected: Mapping[int, str]) -> str | None:
    """Say what is wrong with what is in the target of an e-mail, if anything is."""
    if state.is_on_its_way:
        return None
    if document is not None and _is_later(document.version, state.version):
        return "ahead"
    # That failed because a later one was there is mended by removing it, which may have broken off half way.
    is_known = state.status == "failed" and state.error_code != "receiver_ahead"
    if is_known or state.email_id not in expected:  # or it runs again by now
        return None
    if document is None:
        return "missing"
    return None if document.digest == expected[state.email_id] else "different"


def _is_later(version: Any, than: int) -> bool:  # noqa: ANN401 whatever stands there
    if hasattr(version, "to_decimal"):  # one of MongoDB's own numbers
        version = version.to_decimal()
    try:
        return not isinstance(version, bool | str) and bool(version > than)
    except (TypeError, ArithmeticError):
        return False


async def _read(res: Resources, batches: AsyncGenerator[Sequence[FoundDocument], None]) -> dict[str, There]:
    """Keep of each document what it is compared by; a thread reads them, which may be large."""
    has_links = res.settings.sync_links == "api"
    found: dict[str, There] = {}
    async with aclosing(batches):
        async for some in batches:
            found.update({each.key: each for each in await asyncio.to_thread(_glance, some, has_links)})
            if len(found) >= MOST_READ:
                break
    return found


def _glance(documents: Sequence[FoundDocument], has_links: bool) -> list[There]:  # noqa: FBT001 of all of them
    return [
        There(
            document["_id"],
            document.get("version"),
            document.get("source") == SOURCE,
            digest({name: value for name, value in document.items() if name != "_id"}, with_links=has_links),
            document.get("email_id"),
        )
        for document in documents
    ]


def _said(document: There) -> dict[str, object]:
    return {"version": str(document.version)[:100], "email_id": str(document.email_id)[:100]}
