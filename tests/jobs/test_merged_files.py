"""Which files of two e-mails are the same: none is lost, and no content stands for another one."""

from hypothesis import given
from hypothesis import strategies as st

from service.jobs.merged_files import OwnFile, plan_files

# Address, name, id in Zendesk, status, hash.
Listed = tuple[str, str | None, str | None, str, str]
_FILES = st.lists(
    st.tuples(
        st.sampled_from(
            ["", "https://a/attachments/token/x/?n=1", "https://a/attachments/token/x/", "https://a/y"]
        ),
        st.sampled_from([None, "a.txt", "A.txt ", "b.txt"]),
        st.sampled_from([None, "1", "2"]),
        st.sampled_from(["stored", "pending", "failed"]),
        st.sampled_from(["aa", "bb"]),
    ),
    max_size=6,
)


def of(email_id: int, files: list[Listed]) -> list[OwnFile]:
    return [
        OwnFile(email_id, position, url, name, number, status, sha256 if status == "stored" else None)
        for position, (url, name, number, status, sha256) in enumerate(files)
    ]


@given(mine=_FILES, theirs=_FILES, is_finished=st.booleans())
def test_each_file_is_one_of_the_other_email_or_is_added_to_it(
    mine: list[Listed], theirs: list[Listed], *, is_finished: bool
) -> None:
    plan = plan_files(of(1, mine), of(2, theirs), is_finished=is_finished)

    assert plan.same.keys() | plan.added.keys() == {(2, position) for position in range(len(theirs))}
    assert not plan.same.keys() & plan.added.keys()
    assert sorted(plan.added.values()) == list(range(len(mine), len(mine) + len(plan.added)))
    assert {place for _, place in plan.same.values()} <= set(range(len(mine)))


@given(_FILES, _FILES)
def test_each_stored_content_is_still_there(mine: list[Listed], theirs: list[Listed]) -> None:
    own, others = of(1, mine), of(2, theirs)
    plan = plan_files(own, others, is_finished=True)

    for place in range(len(own)):
        same = {
            own[place].sha256,
            *(each.sha256 for each in others if plan.same.get(each.place) == (1, place)),
        }
        assert len(same - {None}) <= 1


@given(st.lists(st.tuples(st.sampled_from(["stored", "pending", "failed"]), st.sampled_from(["aa", "bb"]))))
def test_an_announcement_of_the_same_files_changes_nothing(files: list[tuple[str, str]]) -> None:
    listed: list[Listed] = [
        (f"https://a/attachments/token/{number}/", "a.txt", None, *file) for number, file in enumerate(files)
    ]

    plan = plan_files(of(1, listed), of(2, listed), is_finished=True)

    assert plan.same == {(2, number): (1, number) for number in range(len(files))}
    assert (plan.added, plan.has_changed, plan.has_pending) == ({}, False, False)
