"""Comments of a ticket: those in a webhook's body, and the comments API with the files of each.

https://developer.zendesk.com/api-reference/ticketing/tickets/ticket_comments/#list-comments
"""

import re
from collections.abc import Sequence
from urllib.parse import quote

from service.zendesk.body import text_of
from service.zendesk.names import name_of
from service.zendesk.signature import read_time

# Pages of a hundred comments, newest first; a ticket has at most 5,000.
MOST_PAGES = 50
COMMENT_ID = re.compile("[0-9]{1,30}")
# The API omits inline images by default.
QUERY = {
    "include_inline_images": "true",
    "include": "users",
    "page[size]": "100",
    "sort": "-created_at",
}


def path(ticket_id: str) -> str:
    """Return the API's path of a ticket's comments."""
    return f"/api/v2/tickets/{quote(ticket_id, safe='')}/comments.json"


def newest_id(comments: Sequence[object]) -> object:
    """Return the id of the newest of a ticket's comments in a webhook; None if the body does not tell."""
    dated = [
        (read_time(text_of(comment.get("created_at")) or ""), text_of(comment.get("id")) or "")
        for comment in comments
        if isinstance(comment, dict)
    ]
    if len(dated) < 2 or not all(COMMENT_ID.fullmatch(number) for _, number in dated):
        return dated[0][1] if len(dated) == 1 else None
    times = [time for time, _ in dated if time]
    if len(times) == len(dated) and times.count(latest := max(times)) == 1:
        return dict(dated)[latest]
    # The API lists the oldest first, a template the newest. Without dates, only ascending ids tell the order.
    return dated[-1][1] if int(dated[-1][1]) == max(int(number) for _, number in dated) else None


def nearest_id(comments: list[tuple[int, bool, str]]) -> str | None:
    """Return the comment's id nearest to the top; None if two differ there, because a sender may have written one."""
    if not comments:
        return None
    depth = min(comments)[0]
    ids = {comment[2] for comment in comments if comment[0] == depth}
    return ids.pop() if len(ids) == 1 else None


def only_some_list_files(comments: Sequence[object]) -> bool:
    """Say whether some comments list their files and others do not: the newest may be one of the others."""
    lists = [
        any(name_of(key).is_files for key in comment) for comment in comments if isinstance(comment, dict)
    ]
    return any(lists) and not all(lists)
