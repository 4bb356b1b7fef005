"""The meaning of a key, in any spelling: `latest_comment_id`, `commentId` and `CommentID` are the same."""

import re
from dataclasses import dataclass
from functools import lru_cache

# A longer name has no meaning, and is not cached.
MOST_NAME = 64

_QUALIFIERS = (
    "urls?|uris?|links?|hrefs?|address(?:es)?|list|array|json|items|data|content|download|public|private|inline"
    "|latest|last|newest|new|comments?|ticket|event|emails?|mail|message|zendesk|all|html|text|formatted|info"
    "|details?|objects?|records?|entries|metadata|collection|values?"
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
    r"(?:has|with|numberof|num|total)(?:attache?ments?|files)|(?:attache?ments?|files?)count"
    r"|attache?ments?(?:total|number)|attache?mentspresent"
    r"|attache?ments?(?:file)?names?|filenames"
)
# Most other keys contain none of these, so that they are cheap.
_HINT = re.compile("attach|file|docu|upload|enclos|comment|ticket|title|from|body|received|webhook|public")
_TEXTS = (
    *("body", "text", "html", "plain", "rich", "formatted", "markdown", "description", "message"),
    *("note", "notes", "content", "subject", "title", "signature", "summary", "reply", "comment"),
    *("comments", "name", "names", "from", "sender", "requester", "email", "emails", "cc", "tag"),
    *("tags", "label", "field", "fields"),
)
_TRIGGER = re.compile(
    r"ticketid|title|from(?:email|name)|body(?:text|html)|receivedat|webhookid|ispublic|ticket"
)
# Their ids and lists do not belong to the comment of the webhook.
_OTHERS = (
    *("parent", "first", "prev", "previous", "old", "older", "quoted", "original", "history", "linked"),
    *("merged", "user", "users", "author", "requester", "submitter", "assignee", "agent"),
    *("organization", "brand", "photo", "customfield", "customfields", "article", "articles"),
    *("followup", "followups", "avatar", "thumbnail", "thumbnails"),
)


@dataclass(frozen=True, slots=True)
class Name:
    """The meaning of a key for its value."""

    word: str = ""  # its letters, in lower case
    is_files: bool = False  # any address below it is a file's
    is_certain: bool = False  # it names attachments; a "document" may be anything
    is_single: bool = False  # "file", "document": often a field of another object
    is_comment: bool = False  # a comment, or several
    is_comment_id: bool = False
    is_latest: bool = False
    is_count: bool = False  # the number of attachments, whether there are any, or their names alone
    is_text: bool = False  # a text that a sender may have written
    is_aside: bool = False  # not the newest comment: its ids and lists belong to another object
    is_ticket_id: bool = False
    is_trigger: bool = False  # not a key of events, but of bodies that an administrator writes for a trigger


_NOTHING = Name()


def name_of(key: str) -> Name:
    """Return the meaning of the key."""
    return _name_of(key) if len(key) <= MOST_NAME else _NOTHING


@lru_cache(maxsize=4096)
def _name_of(key: str) -> Name:
    word = key.lower()
    if not word.isalpha():
        word = "".join(filter(str.isalpha, word))
    is_text, is_aside = word.endswith(_TEXTS), word.startswith(_OTHERS) or word.endswith(_OTHERS)
    if not _HINT.search(word):
        return Name(word=word, is_text=is_text, is_aside=is_aside)
    files, comment, count = _FILES.fullmatch(word), _COMMENT.fullmatch(word), _COUNT.fullmatch(word)
    return Name(
        word=word,
        is_files=files is not None,
        is_certain=files is not None and files[1] is not None,
        is_single=files is not None and files[2] is not None,
        is_comment=comment is not None and comment[3] is None,
        is_comment_id=comment is not None and comment[3] is not None,
        is_latest=comment is not None and comment[1] is not None,
        is_count=count is not None,
        is_text=is_text,
        is_aside=is_aside,
        is_ticket_id=word == "ticketid",
        is_trigger=bool(files or comment or count or _TRIGGER.fullmatch(word)),
    )
