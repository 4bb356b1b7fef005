"""One trace for an e-mail, from the webhook to the object.

A trace's id is made of the invocation, and so are the ids of the spans that have children: web and worker agree
on them without telling each other, also after Redis was emptied. Spans are recorded when they are over.
"""

from collections.abc import Mapping


class Traces:
    """Takes spans that are over; this one forgets them."""

    def record(  # noqa: PLR0913 what a span is made of
        self,
        invocation: str,
        name: str,
        seconds: float,
        about: Mapping[str, str | int],
        *,
        at: str = "",
        under: str = "",
        error: str | None = None,
    ) -> None:
        """Record what ended just now: its place `at`, if spans will stand `under` it, and what it is itself under."""
