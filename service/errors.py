"""Errors, by what to do about them: refuse the request, make another attempt, or give up."""

from datetime import timedelta


class HoldfastError(Exception):
    """An error with a `code` that never changes (to group by) and a message a person can act on."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Rejected(HoldfastError):
    """The request is refused: `status` is its HTTP status, `details` go into the answer."""

    def __init__(self, status: int, code: str, message: str, **details: object) -> None:
        super().__init__(code, message)
        self.status = status
        self.details = details


class Transient(HoldfastError):
    """Another attempt may succeed; `retry_after` is how long the other side asked us to wait, if it did."""

    def __init__(self, code: str, message: str, retry_after: timedelta | None = None) -> None:
        super().__init__(code, message)
        self.retry_after = retry_after


class Permanent(HoldfastError):
    """No further attempt can succeed until somebody changes something."""
