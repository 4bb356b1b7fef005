"""What a look-up leaves to do for a message: its ticket's subject, its original, and files that Zendesk still scans."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial

from service.capture.originals import Wanted, fetch_original
from service.errors import HoldfastError, Transient
from service.jobs import messages, tickets
from service.jobs.attachments import FileRecord
from service.jobs.attempts import Claim
from service.jobs.tickets import Asking, SavedFacts, TicketKey
from service.resources import Resources
from service.zendesk.rate_limit import key_of

# Seconds after the first look-up at which a file that is not scanned is looked at again; after the last, it is
# fetched as it is.
SCAN_SECONDS = (60, 360, 2160)
# A subject that comes later is added to the e-mail when it comes.
_SUBJECT_SECONDS = 10
# Between two looks whether a subject is there, or a call for subjects is due.
_POLL_SECONDS = 0.5
_NOT_SCANNED = "not_scanned"
# Only a look-up tells whether Zendesk gives these out by now.
_BOUND = frozenset({_NOT_SCANNED, "malware_found"})


def is_free(file: FileRecord) -> bool:
    """Say whether a file is to be fetched without another look-up."""
    return file.status == "pending" and file.malware not in _BOUND


async def wait_for_scan(res: Resources, claim: Claim, files: Sequence[FileRecord]) -> Transient | None:
    """Return the error of files that Zendesk has not scanned yet; None once they are fetched nevertheless."""
    if not any(file.malware == _NOT_SCANNED for file in files):
        return None
    state = await res.batch.insist(messages.state_of, claim.email_id)
    age = state.age if state else 0.0
    wait = next((seconds - age for seconds in SCAN_SECONDS if seconds > age), None)
    if wait is None:
        return None
    about = "Zendesk has not scanned a file for malware yet."
    return Transient("not_scanned", about, timedelta(seconds=wait), counts=False)


async def complete_message(res: Resources, claim: Claim) -> None:
    """Add the ticket's subject and the original e-mail, if Zendesk gives them; neither fails the e-mail."""
    if not res.zendesk.has_login:
        return
    state = await res.batch.insist(messages.state_of, claim.email_id)
    if state is None:
        return
    if state.lacks_subject:
        await _wait_for_subject(res, TicketKey(claim.account_id or "", claim.ticket_id))
    if state.wants_original:
        await fetch_original(res, Wanted(claim.email_id, claim.ticket_id, state))


async def ask_subjects_for_ever(res: Resources) -> None:
    """Ask for subjects that no attempt waits for, because it ended or calls were scarce; runs until cancelled."""
    while True:
        await asyncio.sleep(_SUBJECT_SECONDS)
        with suppress(HoldfastError):
            await _ask_if_due(res)


async def _wait_for_subject(res: Resources, ticket: TicketKey) -> None:
    """Wait a while for the subject of a ticket; the attempt whose turn it is asks for those of all workers."""
    deadline = time.monotonic() + _SUBJECT_SECONDS
    with suppress(HoldfastError):
        while not await res.batch.insist(tickets.have_subject, ticket):
            if time.monotonic() > deadline:
                return
            if not await _ask_if_due(res):
                await asyncio.sleep(_POLL_SECONDS)


async def _ask_if_due(res: Resources) -> bool:
    """Ask for the subjects of the tickets that wait, if a call is due; return whether it was."""
    if not (res.zendesk.has_login and res.account.url):
        return False
    asking = Asking(key_of(res.account.url), res.settings.zendesk_calls_percent)
    due = await res.batch.insist(tickets.take_without_subject, asking)
    if due:
        facts = await res.zendesk.ticket_facts([ticket.ticket_id for ticket in due])
        saved = [SavedFacts(ticket, facts[ticket.ticket_id], res.settings.sync_status) for ticket in due]
        for syncs in await res.insist(partial(tickets.save_facts, saved=saved)):
            for sync in syncs:
                res.dispatcher.dispatch(sync)
    return bool(due)
