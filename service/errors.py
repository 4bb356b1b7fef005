"""The three kinds of errors: refuse the request, make another attempt, or fail the job."""

import ssl
from datetime import UTC, datetime, timedelta

# The code for a row that a constraint of Postgres refuses.
ROW_REFUSED = "row_refused"
ADAPT = "A table of another system keeps such limits until `holdfast takeover` adapts it."
# By OpenSSL's numbers: https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/
_CERTIFICATES = {
    10: "has expired",
    18: "is self-signed",
    19: "is self-signed",
    20: "has an issuer that this host does not know",
    21: "has an issuer that this host does not know",
    62: "is for another host",
    64: "is for another host",
}


class HoldfastError(Exception):
    """An error with a stable `code`, to group by, and a message that tells a person what to do."""

    host: str | None = None  # of the file that could not be fetched
    position: int | None = None  # of that file in its e-mail
    answered: int | None = None  # the status of the other side's answer, where that is the reason

    def __init__(self, code: str, message: str) -> None:
        # Parts of it may come from outside, and it goes into a text column: no NUL, no lone surrogates.
        self.message = message.encode(errors="replace").decode().replace("\0", "?")[:1000]
        super().__init__(self.message)
        self.code = code


class Rejected(HoldfastError):
    """The request is refused: `status` is its HTTP status, `details` go into the answer."""

    def __init__(self, status: int, code: str, message: str, **details: object) -> None:
        super().__init__(code, message)
        self.status = status
        self.details = details


def refuse_future(since: datetime | None) -> None:
    """Raise Rejected (400) for work on e-mails since a time that is still to come: it would find nothing, and nothing wrong."""
    if since is not None and since > datetime.now(UTC):
        raise Rejected(
            400, "since_in_future", f"{since:%Y-%m-%d %H:%M %Z} is in the future: give an earlier time."
        )


class Transient(HoldfastError):
    """Another attempt may succeed; `retry_after` is the delay that the other side asked for, if any.

    `counts`: another attempt costs a retry, unless the error says nothing about this e-mail, like one of the whole
    account. `is_limited`: the job fails after the last retry, unless the webhook is too young for that.
    """

    def __init__(
        self,
        code: str,
        message: str,
        retry_after: timedelta | None = None,
        *,
        counts: bool = True,
        is_limited: bool = True,
    ) -> None:
        super().__init__(code, message)
        self.retry_after = retry_after
        self.counts = counts
        self.is_limited = is_limited and counts


class Permanent(HoldfastError):
    """No further attempt can succeed until a person changes something."""


class SettingsError(Exception):
    """A setting is missing or wrong; the message is one line with its name and the expected value.

    `args` has one line per wrong setting.
    """

    def __str__(self) -> str:
        return str(self.args[0])


def certificate_problem(error: BaseException | None) -> str | None:
    """Describe the problem of the other side's certificate; None if the error has another cause."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate {_CERTIFICATES.get(error.verify_code, 'cannot be verified')}"
        if isinstance(error, ssl.SSLError):
            return f"TLS fails ({(error.reason or 'no reason given').lower().replace('_', ' ')})"
        error = error.__cause__ or error.__context__
    return None
