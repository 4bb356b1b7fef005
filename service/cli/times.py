"""Times on the command line: read as people write them, and printed in the zone of the reader (TZ)."""

import re
from datetime import UTC, date, datetime, timedelta

import click

TIME_HELP = "such as 2026-01-31T18:00, yesterday, monday or 2h (ago)"
_UNITS = {"m": "minutes", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO = re.compile(r"([0-9]{1,6}) ?(min|m|h|d|w)( ago)?")
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAYS_AGO = {"today": 0, "yesterday": 1}


class Time(click.ParamType[datetime]):
    """A time: a date with or without an hour, a day by its name, or how long ago it was."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return an aware time; one without a zone is in the zone of the reader."""
        if isinstance(value, datetime):
            return value
        now = datetime.now().astimezone()
        try:
            return _read_time(str(value).strip().lower(), now)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time; write one {TIME_HELP}.", param, ctx)


class Day(click.ParamType[date]):
    """A day in UTC: a date, or a day by its name."""

    name = "day"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> date:
        if isinstance(value, date):
            return value
        text = str(value).strip().lower()
        try:
            return _named_day(text, datetime.now(UTC).date()) or date.fromisoformat(text)
        except ValueError:
            self.fail(f"{value!r} is no day; write 2026-01-31, today, yesterday or monday.", param, ctx)


TIME, DAY = Time(), Day()


def shown_time(time: datetime) -> str:
    """Format a time in the zone of the reader, to the second, with the name of the zone."""
    try:
        time = time.astimezone()
    except OverflowError:  # a sender's date may be the last day of all
        time = time.astimezone(UTC)
    return f"{time:%Y-%m-%d %H:%M:%S %Z}"


def _read_time(text: str, now: datetime) -> datetime:
    """Raise ValueError or OverflowError if the text is no time that there can be."""
    if text == "now":
        return now
    if day := _named_day(text, now.date()):
        return datetime.combine(day, datetime.min.time()).astimezone()
    if ago := _AGO.fullmatch(text):
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    return datetime.fromisoformat(text.upper()).astimezone()


def _named_day(text: str, today: date) -> date | None:
    """Return the day of a name; a weekday is the last one, which may be today."""
    if text in _DAYS_AGO:
        return today - timedelta(days=_DAYS_AGO[text])
    if text in _WEEKDAYS:
        return today - timedelta(days=(today.weekday() - _WEEKDAYS.index(text)) % 7)
    return None
