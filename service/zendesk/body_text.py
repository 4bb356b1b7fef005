"""Find the text of an e-mail in a webhook's body: all that is known of a text that the API was not asked for."""

from collections.abc import Iterable, Iterator, Mapping

from service.zendesk.body import Unreadable, clean, read_body
from service.zendesk.names import name_of
from service.zendesk.parsing import headers_of, media_type

# Keys by their letters alone, best first. A ticket's description is the text of its first e-mail.
_TEXTS = (
    *("plainbody", "bodytext", "textbody", "textplain", "plaintext", "body", "text"),
    *(
        "latestcommentbody",
        "commentbody",
        "commenttext",
        "latestcomment",
        "lastcomment",
        "comment",
        "message",
    ),
    *("ticketdescription", "description"),
)
_RANKS = {word: rank for rank, word in enumerate(_TEXTS)}
# Objects that may hold the text.
_OBJECTS = {
    "ticket",
    "event",
    "detail",
    "comment",
    "latestcomment",
    "lastcomment",
    "message",
    "email",
    "payload",
}
_MOST_DEPTH = 4


def read(headers: Iterable[tuple[str, str]], body: bytes) -> str | None:
    """Return the text; None if the body has none, or cannot be read. Raises nothing, for any bytes.

    `headers` are the saved pairs.
    """
    try:
        data = read_body(body, media_type(headers_of(headers)))
    except Unreadable:
        return None
    found = sorted(_texts(data, 0), key=lambda each: each[0]) if isinstance(data, dict) else []
    return next((text for _, text in found), None)


def _texts(fields: Mapping[str, object], depth: int) -> Iterator[tuple[tuple[int, int], str]]:
    """Yield texts with their ranks: by their key, and then by their depth."""
    for key, value in fields.items():
        word = name_of(key).word
        if isinstance(value, str) and word in _RANKS and value.strip():
            yield (_RANKS[word], depth), clean(value)
        elif isinstance(value, dict) and word in _OBJECTS and depth < _MOST_DEPTH:
            yield from _texts(value, depth + 1)
