"""Write the words by which e-mails are found: at the end of an attempt, and where they are missing."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from functools import partial

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import HoldfastError
from service.jobs.email_words import MOST_CHARACTERS, EmailTexts, list_unwritten, load_texts, save_words
from service.postgres.rows import in_batches
from service.postgres.words import entries_of
from service.resources import Resources
from service.zendesk import body_text

# E-mails whose texts are in memory at once.
TOGETHER = 20

# Rows that one step examines, in the index of ids alone.
EXAMINED = 5_000
# After all e-mails have words, only the newest are examined, and sometimes all again.
IDLE_SECONDS = 5.0
AGAIN_SECONDS = 3_600.0
# A step rests as long as it worked, times this, so that attempts have the processor.
_REST = 2.0

log = structlog.get_logger()


async def write_words(conn: AsyncConnection, email_ids: Sequence[int]) -> Sequence[bool]:
    """Write the words of e-mails, as a statement of a batch; return whether each e-mail exists.

    Call it after any change of an e-mail's message, files or error. Words that are the same are not written.
    """
    written: set[int] = set()
    for some in in_batches(sorted(set(email_ids)), TOGETHER):
        texts = await load_texts(conn, some)
        # A long text takes some milliseconds; other tasks run meanwhile.
        words = await asyncio.to_thread(_words_of, texts)
        await save_words(conn, words)
        written.update(words)
    return [email_id in written for email_id in email_ids]


async def index_for_ever(res: Resources) -> None:
    """Write missing words, newest e-mails first, until cancelled.

    Several workers may do so at once: each takes e-mails at random among the next ones. Nothing is remembered between
    runs, since the table of words tells which are missing.
    """
    while True:
        deadline = time.monotonic() + AGAIN_SECONDS
        await _index_from(res, None)
        while time.monotonic() < deadline:
            await asyncio.sleep(IDLE_SECONDS)
            await _index_from(res, None, most_steps=1)


async def _index_from(res: Resources, below: int | None, most_steps: int | None = None) -> None:
    """Write missing words from an id down; `most_steps` bounds how far."""
    steps = 0
    while most_steps is None or steps < most_steps:
        try:
            found, after = await res.run(partial(list_unwritten, below=below, examined=EXAMINED))
        except HoldfastError as exc:
            log.warning("words_not_listed", code=exc.code)
            await asyncio.sleep(IDLE_SECONDS)
            continue
        await _write_all(res, list(found))
        if (below := after) is None:
            return
        steps += 1


async def _write_all(res: Resources, email_ids: list[int]) -> None:
    """Write the words of these e-mails; one that Postgres refuses is left out, and tried again later."""
    random.shuffle(email_ids)
    for start in range(0, len(email_ids), TOGETHER):
        begun = time.monotonic()
        some = email_ids[start : start + TOGETHER]
        try:
            await res.run(partial(write_words, email_ids=some))
        except HoldfastError as exc:
            log.warning("words_not_written", code=exc.code, emails=len(some))
        await asyncio.sleep(_REST * (time.monotonic() - begun))


def _words_of(emails: Sequence[EmailTexts]) -> Mapping[int, Sequence[str]]:
    return {each.email_id: entries_of(each.email_id, (*each.texts, _body_text(each))) for each in emails}


def _body_text(email: EmailTexts) -> str | None:
    """Return the text in the webhook, for an e-mail whose message Zendesk's API did not give."""
    if email.body is None:
        return None
    return (body_text.read(email.headers, email.body) or "")[:MOST_CHARACTERS]
