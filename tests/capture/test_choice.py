"""Which comment of a ticket is which waiting e-mail, and which comments are e-mails that nobody announced."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from service.capture.choice import AFTER, BEFORE, JUST, LAG, choose
from service.jobs.messages import KnownEmails, WaitingEmail
from service.zendesk.messages import CommentMessage, ListedFile, Person

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def comment(number: int, age: float = 0, **more: Any) -> CommentMessage:
    """Make a comment that was made `age` seconds ago."""
    files = tuple(ListedFile(url, None, None, None) for url in more.pop("urls", ()))
    about: dict[str, Any] = {
        "audit_id": None,
        "channel": "email",
        "is_email": True,
        "is_by_agent": False,
        "direction": "inbound",
        "public": True,
        "sender": Person("Mara", "mara@customer.example"),
        "to": (),
        "cc": (),
        "message_id": None,
        "text": "",
        "html": None,
        "record": b"{}",
        "is_redacted": False,
    }
    made_at = NOW - timedelta(seconds=age)
    return CommentMessage(comment_id=str(number), created_at=made_at, files=files, **{**about, **more})


def waiting(email_id: int, comment_id: int | None = None, age: float = 0, **more: Any) -> WaitingEmail:
    name = None if comment_id is None else str(comment_id)
    received_at = NOW - timedelta(seconds=age)
    return WaitingEmail(email_id, name, received_at, more.get("sender"), more.get("urls", ()))


def known(*emails: WaitingEmail, comments: tuple[int, ...] = (), newest: float | None = None) -> KnownEmails:
    at = None if newest is None else NOW - timedelta(seconds=newest)
    return KnownEmails(frozenset(map(str, comments)), emails, at)


def kept(choice: Any) -> dict[str, int | None]:
    return {each.comment_id: email_id for email_id, each in choice.kept}


def test_a_named_comment_is_the_emails_whatever_its_age() -> None:
    old, new = comment(1, 90 * 86400), comment(2)

    choice = choose([new, old], known(waiting(7, 1)), {7})

    assert kept(choice)["1"] == 7


def test_every_email_since_the_newest_kept_one_is_kept() -> None:
    """Two quick e-mails may both name the second one, and Zendesk may not announce a third at all."""
    comments = [comment(4), comment(3, 60), comment(2, 4000), comment(1, 9000)]

    choice = choose(comments, known(waiting(7, 4), comments=(4,), newest=3600), {7})

    assert kept(choice) == {"4": 7, "3": None, "2": None}


def test_an_agents_comment_is_an_email_if_zendesks_export_says_so() -> None:
    """Otherwise the next search would find it again, and so on for ever."""
    web = comment(2, is_email=False, is_by_agent=True, channel="web")
    listed = waiting(7, 2)._replace(is_listed=True)

    assert kept(choose([web], known(listed), {7})) == {"2": 7}
    assert choose([web], known(waiting(7, 2)), {7}).ignored == [7]


def test_what_is_no_email_is_not_made_one() -> None:
    web = comment(2, 5, is_email=False, channel="web")

    choice = choose([comment(3), web], known(waiting(7, 3), comments=(3,)), {7})

    assert kept(choice) == {"3": 7}


def test_an_agents_web_comment_that_was_announced_is_ignored_unless_it_has_announced_files() -> None:
    web = comment(3, is_email=False, is_by_agent=True, channel="web")

    bare = choose([web], known(waiting(7, 3)), {7})
    with_file = choose([web], known(waiting(7, 3, urls=("https://x.example/a",))), {7})

    assert (bare.kept, bare.ignored) == ([], [7])
    assert kept(with_file) == {"3": 7}


def test_a_customers_web_comment_that_was_announced_is_kept() -> None:
    web = comment(3, is_email=False, channel="web")

    assert kept(choose([web], known(waiting(7, 3)), {7})) == {"3": 7}


def test_without_a_named_comment_the_files_tell_it() -> None:
    token = "https://acme.zendesk.com/attachments/token/{}/?name=a.pdf"
    comments = [comment(2, 1, urls=(token.format("b"),)), comment(1, 2, urls=(token.format("a"),))]
    email = waiting(7, urls=(token.format("a").replace("?name=a.pdf", ""),))

    assert kept(choose(comments, known(email), {7})) == {"1": 7, "2": None}


def test_an_email_whose_files_are_in_no_comment_waits_until_it_is_overdue() -> None:
    email = waiting(7, urls=("https://acme.zendesk.com/attachments/token/x/",))

    assert kept(choose([comment(1)], known(email), {7})) == {"1": None}
    assert kept(choose([comment(1)], known(email), {7}, {7})) == {"1": 7}


def test_another_emails_comment_without_the_announced_files_is_never_its_own() -> None:
    email = waiting(7, urls=("https://acme.zendesk.com/attachments/token/x/",))

    for age in (1, 3 * 86400):
        choice = choose([comment(1, age)], known(email, comments=(1,), newest=age), {7}, {7})
        assert (choice.kept, choice.ignored) == ([], [])
    old = choose([comment(1, 3 * 86400)], known(email), {7}, {7})
    assert 7 not in old.settled


def test_while_zendesk_may_be_behind_an_older_comment_waits() -> None:
    """It is another e-mail already, or a note: the comment of the webhook may be the next one that Zendesk shows."""
    note = {"is_email": False, "is_by_agent": True, "channel": "web"}
    for age, later, is_settled in (
        (30 * 60, timedelta(0), False),
        (JUST.total_seconds() - 1, timedelta(0), True),
        (30 * 60, LAG, True),
    ):
        taken, now = known(waiting(7), comments=(1,), newest=age), NOW + later
        assert choose([comment(1, age)], taken, {7}, now=now).settled == ({7} if is_settled else set())
        ignored = choose([comment(1, age, **note)], known(waiting(7)), {7}, now=now).ignored
        assert ignored == ([7] if is_settled else [])
        assert kept(choose([comment(1, age)], taken, {7}, {7}, now=now)) == {"1": 7}

    unknown = choose([comment(1, 30 * 60)], known(waiting(7)), {7}, now=NOW)
    assert kept(unknown) == {"1": 7}


def test_an_email_that_came_after_the_question_is_not_matched_by_time() -> None:
    assert kept(choose([comment(1)], known(waiting(7)), set())) == {}


def test_the_senders_comment_is_preferred() -> None:
    theirs = comment(1, 20, sender=Person(None, "Tom@Customer.example"))
    email = waiting(7, sender="tom@customer.example")

    assert kept(choose([comment(2), theirs], known(email), {7}))["1"] == 7


@given(
    ages=st.lists(st.integers(0, 3000), min_size=1, max_size=6, unique=True),
    named=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_each_announced_comment_is_kept_however_the_webhooks_name_it(
    ages: list[int], named: list[bool]
) -> None:
    """Each e-mail has one comment, and none of the ticket's quick e-mails is left out."""
    comments = [comment(number, age) for number, age in enumerate(sorted(ages), 1)]
    emails = [
        waiting(10 + number, number if named[number - 1] else None, age)
        for number, age in enumerate(sorted(ages), 1)
    ]

    choice = choose(comments, known(*emails), {email.email_id for email in emails})

    assert {each.comment_id for _, each in choice.kept} == {each.comment_id for each in comments}
    assert choice.settled == {email.email_id for email in emails}


def test_the_window_is_bounded_on_both_sides() -> None:
    early, late = BEFORE.total_seconds() + 1, -AFTER.total_seconds() - 1

    choice = choose([comment(2, late), comment(1, early)], known(waiting(7)), {7})

    assert choice.settled == set()


def test_files_of_several_comments_are_in_the_webhook_of_the_newest() -> None:
    """A template may list those of the whole ticket, as `{{ticket.comments_formatted}}` does."""
    one, two, three, new = (
        f"https://acme.zendesk.com/attachments/token/{name}/?name=a.pdf" for name in "abcd"
    )
    old = comment(1, 30 * 60, urls=(one, two, three))
    email = known(waiting(7, urls=(one, two, three, new)), comments=(1,), newest=30 * 60)
    of_one = known(waiting(7, urls=(one, two)), comments=(1,), newest=30 * 60)

    both = choose([comment(2, 1, urls=(new,)), old], email, {7}, now=NOW)
    late = choose([old], email, {7}, now=NOW)
    overdue = choose([old], email, {7}, {7}, now=NOW)
    again = choose([old], of_one, {7}, now=NOW)

    assert kept(both) == {"2": 7}
    assert late.settled == set(), "the comment of the new file may be the next one that Zendesk shows"
    assert (kept(overdue), kept(again)) == ({"1": 7}, {"1": 7})


def test_the_clock_of_postgres_tells_whether_zendesk_may_be_behind() -> None:
    """That of the worker may be wrong by hours."""
    for later, is_settled in ((timedelta(0), False), (LAG, True)):
        told = known(waiting(7), comments=(1,), newest=30 * 60)
        told = KnownEmails(told.comments, told.waiting, told.newest, NOW + later)
        assert choose([comment(1, 30 * 60)], told, {7}).settled == ({7} if is_settled else set())
