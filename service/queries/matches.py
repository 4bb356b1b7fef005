"""Where the e-mails of a list have the words of a query: the part of the e-mail, and the text around the words."""

import asyncio
import re
from collections.abc import Iterator, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from service.postgres.words import folded_in_place, pattern_of, terms_of
from service.queries.messages import messages_of
from service.queries.views import EmailView, MatchView, PersonView, Where

MAX_MATCHES = 5  # per e-mail
BEFORE, AFTER = 40, 80  # characters of the context
# Texts are read of so many e-mails at a time, and until they have so many characters together.
_TOGETHER = 50
_MOST_CHARACTERS = 1_000_000

_SPACES = re.compile(r"\s+")


class _Search:
    """The terms of a query that an e-mail's parts were not found to have yet, and the matches so far."""

    def __init__(self, patterns: Sequence[re.Pattern[str]]) -> None:
        self.missing = [*patterns]
        self.matches: list[MatchView] = []

    def read(self, where: Where, text: str | None) -> None:
        """Look for each missing term in a part; a term inside of the context of another gets no match of its own."""
        if not text or not self.missing:
            return
        folded = folded_in_place(text)
        shown = range(0)
        for pattern in [*self.missing]:
            if not (found := pattern.search(folded)):
                continue
            self.missing.remove(pattern)
            if found.start() not in shown and len(self.matches) < MAX_MATCHES:
                self.matches.append(_excerpt(where, text, found.start(), found.end()))
                shown = range(found.start() - BEFORE, found.end() + AFTER)


async def with_matches(conn: AsyncConnection, query: str, emails: Sequence[EmailView]) -> list[EmailView]:
    """Return the e-mails with their matches, as far as these are found in a bounded number of texts."""
    patterns = [pattern_of(term) for term in terms_of(query)]
    searches = {email.id: _Search(patterns) for email in emails}
    for email in emails:
        for where, text in _parts(email):
            searches[email.id].read(where, text)
    await _read_messages(conn, [email for email in emails if searches[email.id].missing], searches)
    return [email.model_copy(update={"matches": searches[email.id].matches}) for email in emails]


async def _read_messages(
    conn: AsyncConnection, emails: Sequence[EmailView], searches: dict[int, _Search]
) -> None:
    size = 0
    for start in range(0, len(emails), _TOGETHER):
        some = emails[start : start + _TOGETHER]
        messages = await messages_of(conn, some)
        for email in some:
            if (message := messages.get(email.id)) is None:
                continue
            parts: Sequence[tuple[Where, str | None]] = (
                ("to", _people(message.to)),
                ("cc", _people(message.cc)),
                ("text", message.text),
            )
            for where, text in parts:
                searches[email.id].read(where, text)
                size += len(text or "")
            await asyncio.sleep(0)  # a text takes milliseconds: let other tasks run
        if size > _MOST_CHARACTERS:
            return


def _parts(email: EmailView) -> Iterator[tuple[Where, str | None]]:
    """Yield the parts of an e-mail that a list has."""
    yield "ticket", email.zendesk_ticket_id
    yield "subject", email.subject
    yield "from", _people([PersonView(name=email.from_name, address=email.from_email)])
    for file in email.attachments:
        yield "file", file.file_name
    yield "error", _joined(email.error_code, email.processing_error)
    yield "error", _joined(email.sync_error_code, email.sync_error)


def _people(people: Sequence[PersonView]) -> str:
    return ", ".join(
        _joined(person.name, f"<{person.address}>" if person.address else None) for person in people
    )


def _joined(*texts: str | None) -> str:
    return " ".join(filter(None, texts))


def _excerpt(where: Where, text: str, start: int, end: int) -> MatchView:
    return MatchView(
        where=where,
        before=_before(text[max(0, start - BEFORE) : start], is_whole=start <= BEFORE),
        match=_SPACES.sub(" ", text[start:end]),
        after=_after(text[end : end + AFTER], is_whole=len(text) - end <= AFTER),
    )


def _before(text: str, *, is_whole: bool) -> str:
    """Cut at the beginning of a word, where there is one."""
    line = _SPACES.sub(" ", text)
    if is_whole:
        return line.lstrip()
    _, space, words = line.partition(" ")
    return f"…{words if space else line}"


def _after(text: str, *, is_whole: bool) -> str:
    line = _SPACES.sub(" ", text)
    if is_whole:
        return line.rstrip()
    words, space, _ = line.rpartition(" ")
    return f"{words if space else line}…"
