"""The demo follows its e-mails by the lines of `holdfast tail --json`."""

from datetime import UTC, datetime

import pytest

from service.local.demo import Demo, show
from service.queries.changes import Change

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def line(email_id: int, status: str, error: str | None = None) -> str:
    """Return a line of `holdfast tail --json`."""
    change = Change(
        id=email_id,
        at=NOON,
        zendesk_ticket_id="48101",
        processing_status=status,
        attempt_number=1,
        retry_count=0,
        error_code="busy" if error else None,
        processing_error=error,
        sync_status="not_applicable",
        sync_due_at=NOON,
        sync_error_code=None,
        sync_error=None,
        synced_at=None,
        matches=True,
    )
    return change.model_dump_json()


def test_the_demo_counts_the_states_of_accepted_e_mails() -> None:
    demo = Demo(accepted={1, 2, 3})
    for email_id, status in ((1, "processing"), (1, "completed"), (2, "failed"), (9, "completed")):
        show(demo, "tail", line(email_id, status))

    assert (demo.count("completed"), demo.count("failed"), demo.unfinished) == (1, 1, 1)


@pytest.mark.parametrize(
    ("status", "ending"),
    [("queued", "queued  127.0.0.1 answered 503\n"), ("processing", "processing\n")],
)
def test_the_reason_of_a_retry_is_shown_while_the_e_mail_waits(
    status: str, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show(Demo(), "tail", line(4, status, "127.0.0.1 answered 503"))

    assert capsys.readouterr().out.endswith(f"e-mail 4   ticket 48101  {ending}")


@pytest.mark.parametrize("name", ["tail", "supervisor"])
def test_other_lines_are_printed_unchanged(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    demo = Demo()
    show(demo, name, "Postgres does not answer; still trying.")

    assert capsys.readouterr().out == "holdfast  │ Postgres does not answer; still trying.\n"
    assert demo.states == {}
