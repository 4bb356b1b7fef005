"""Times and numbers on the command line: as people write them, in the reader's zone."""

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import click
import pytest
from click.testing import CliRunner

from service.cli.filters import ID
from service.cli.main import main
from service.cli.times import DAY, TIME, shown_time


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the reader's zone."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def read(text: str) -> datetime:
    read = TIME.convert(text, None, None)
    assert read.tzinfo is not None
    return read


@pytest.mark.usefixtures("in_berlin")
def test_a_time_without_a_zone_is_the_readers() -> None:
    """In winter, Berlin is an hour ahead of UTC; in summer, two."""
    assert read("2026-01-31") == datetime(2026, 1, 30, 23, tzinfo=UTC)
    assert read("2026-07-31T18:00") == datetime(2026, 7, 31, 16, tzinfo=UTC)
    assert read("2026-07-31t18:00z") == datetime(2026, 7, 31, 18, tzinfo=UTC)


def test_every_command_reads_times_alike() -> None:
    def options(command: click.Command) -> Iterator[click.Parameter]:
        yield from command.params
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None
                yield from options(below)

    every = list(options(main))
    assert {each.name for each in every if each.type is TIME} >= {
        "since",
        "until",
        "before",
        "received_after",
    }
    assert [each.opts for each in every if isinstance(each.type, click.DateTime)] == []


@pytest.mark.usefixtures("in_berlin")
def test_a_day_begins_at_the_readers_midnight() -> None:
    today = datetime.now().astimezone()

    for text, days in (("today", 0), ("yesterday", 1), (" Yesterday ", 1)):
        day = read(text).astimezone()

        assert (day.date(), day.hour, day.minute) == (today.date() - timedelta(days=days), 0, 0)


def test_a_weekday_is_the_last_one() -> None:
    today = datetime.now().astimezone().date()

    for place, name in enumerate(
        ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    ):
        day = read(name).date()

        assert day.weekday() == place
        assert timedelta() <= today - day <= timedelta(days=6)


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("2h", timedelta(hours=2)),
        ("90 min ago", timedelta(minutes=90)),
        ("3d", timedelta(days=3)),
        ("1w", timedelta(weeks=1)),
    ],
)
def test_a_duration_counts_back_from_now(text: str, ago: timedelta) -> None:
    before = datetime.now(UTC)

    assert before - ago <= read(text) <= datetime.now(UTC) - ago


@pytest.mark.parametrize(
    "text", ["soon", "", "2x", "2", "999999w", "0001-01-01", "9999-12-31T23:59-12:00", "2026-02-30"]
)
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time; write one such as 2026-01-31T18:00, yesterday"):
        read(text)


def test_a_day_of_the_ledger_has_a_name_or_a_date() -> None:
    today = datetime.now(UTC).date()

    assert DAY.convert("yesterday", None, None) in (today - timedelta(days=1), today)
    assert DAY.convert("2026-01-31", None, None) == date(2026, 1, 31)
    with pytest.raises(click.BadParameter, match="is no day; write 2026-01-31"):
        DAY.convert("31.1.", None, None)


@pytest.mark.usefixtures("in_berlin")
def test_a_time_is_shown_in_the_readers_zone_and_names_it() -> None:
    assert shown_time(datetime(2026, 7, 31, 16, tzinfo=UTC)) == "2026-07-31 18:00:00 CEST"


@pytest.mark.usefixtures("in_berlin")
def test_the_last_time_of_all_is_shown_in_utc() -> None:
    assert shown_time(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)) == "9999-12-31 23:59:59 UTC"


@pytest.mark.parametrize("text", ["abc", "-1", "1.5", "٣", "9" * 30, str(2**63)])
def test_an_id_must_be_a_number(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no ID: it must be a number, as lists show it"):
        ID.convert(text, None, None)


def test_no_summary_of_a_command_is_cut() -> None:
    """Neither in the list of all commands nor in that of a group, on a terminal of 80 characters."""
    groups = [["--help"]]
    for path in groups:
        shown = CliRunner().invoke(main, path, terminal_width=80).output

        assert [line for line in shown.splitlines() if line.endswith("...") and "Usage" not in line] == []

        context = click.Context(main)
        command: click.Command | None = main
        for name in path[:-1]:
            assert isinstance(command, click.Group)
            command = command.get_command(context, name)
        if isinstance(command, click.Group):
            groups += [[*path[:-1], name, "--help"] for name in command.list_commands(context)]
    assert len(groups) > 50
