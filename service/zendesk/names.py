"""What the name of a key means, in any spelling: `latest_comment_id`, `commentId` and `CommentID` are one."""

import re
from dataclasses import dataclass
from functools import lru_cache

# A longer name means nothing; it is not kept in the cache either.
MOST_NAME = 64

_QUALIFIERS = (
    "urls?|uris?|links?|hrefs?|address(?:es)?|list|array|json|items|data|content|download|public|private|inline"
    "|latest|last|newest|new|comments?|ticket|event|emails?|mail|message|zendesk|all|html|text|formatted"
)
_FILES = re.compile(
    rf"(?:{_QUALIFIERS})*(?:(attache?ments?)|files|documents|uploads|enclosures|(file|document|upload|enclosure))"
    rf"(?:{_QUALIFIERS})*"
)
_COMMENT = re.compile(
    r"(?:ticket|event|zendesk|the|e?mail|public|private|internal|(latest|last|newest|new|mostrecent|current))*"
    r"comment(?:(s)|(id))?"
)
_COUNT = re.compile(
    r"(?:has|numberof|num|total)attache?ments?|attache?ments?(?:count|total|number)|attache?mentspresent"
)
_TEXT = re.compile(
    r".*(?:body|text|html|plain|rich|formatted|markdown|description|message|notes?|content|subject|title"
    r"|signature|summary|reply|comments?|names?|from|sender|requester|emails?|cc|tags?|label|fields?)"
)
_TRIGGER = re.compile(
    r"ticketid|title|from(?:email|name)|body(?:text|html)|receivedat|webhookid|ispublic|ticket"
)
# The ids and lists of these belong to something else than the comment that the webhook is about.
_OTHERS = (
    "parent|first|prev|previous|old|older|quoted|original|history|users?|author|requester|submitter|assignee|agent"
    "|organization|brand|customfields?|articles?|linked|followups?|merged|thumbnails?|photo|avatar"
)
_ASIDE = re.compile(rf"(?:{_OTHERS}).*|.*(?:{_OTHERS})")


@dataclass(frozen=True, slots=True)
class Name:
    """What a key says of its value."""

    word: str = ""  # its letters, in lower case
    is_files: bool = False  # any address below it is a file's
    is_certain: bool = False  # it speaks of attachments; a "document" may be anything
    is_single: bool = False  # "file", "document": often a field of something else
    is_comment: bool = False  # a comment, or several
    is_comment_id: bool = False
    is_latest: bool = False
    is_count: bool = False  # how many attachments there are, or whether there are any
    is_text: bool = False  # what a sender may have written
    is_aside: bool = (
        False  # something else than the ticket's newest comment, which has ids and files of its own
    )
    is_ticket_id: bool = False
    is_trigger: bool = False  # no event has it, but the body that an administrator writes for a trigger


_NOTHING = Name()


def name_of(key: str) -> Name:
    """Return what the key means."""
    return _name_of(key) if len(key) <= MOST_NAME else _NOTHING


@lru_cache(maxsize=4096)
def _name_of(key: str) -> Name:
    word = "".join(filter(str.isalpha, key)).lower()
    files, comment = _FILES.fullmatch(word), _COMMENT.fullmatch(word)
    return Name(
        word=word,
        is_files=files is not None,
        is_certain=files is not None and files[1] is not None,
        is_single=files is not None and files[2] is not None,
        is_comment=comment is not None and comment[3] is None,
        is_comment_id=comment is not None and comment[3] is not None,
        is_latest=comment is not None and comment[1] is not None,
        is_count=_COUNT.fullmatch(word) is not None,
        is_text=_TEXT.fullmatch(word) is not None,
        is_aside=_ASIDE.fullmatch(word) is not None,
        is_ticket_id=word == "ticketid",
        is_trigger=bool(files or comment or _COUNT.fullmatch(word) or _TRIGGER.fullmatch(word)),
    )
