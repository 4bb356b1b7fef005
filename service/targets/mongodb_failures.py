"""What goes wrong with a collection of MongoDB's, in our words: the driver's text names hosts, and may name more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.errors import Permanent, Transient

# https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml
_NOT_LET_IN = frozenset({11, 13, 18, 8000})
_TOO_LARGE = frozenset({10334, 17419, 17420})
_REFUSED = frozenset({2, 14, 121, 11000})

# The driver keeps no more than the text of why it found no server. Of the second kind each system has its own.
_OF_TLS = ("SSL handshake failed", "[SSL", "certificate verify failed")
_OF_NAMES = (
    "Name or service not known",
    "name resolution",
    "No address associated with hostname",
    "nodename nor servname",
    "Name does not resolve",
    "getaddrinfo failed",
)


@asynccontextmanager
async def asking(seconds: float) -> AsyncIterator[None]:
    """Bound what is asked of the server, and translate what goes wrong."""
    from bson.errors import BSONError
    from pymongo import errors

    try:
        async with asyncio.timeout(seconds):
            yield
    except (errors.NetworkTimeout, errors.ExecutionTimeout, errors.WTimeoutError, TimeoutError):
        raise Transient("receiver_slow", f"no answer within {seconds:g} s") from None
    except errors.DocumentTooLarge:
        raise Permanent("document_too_large", "as a document it has more than 16 MiB") from None
    except (errors.OperationFailure, errors.BulkWriteError) as exc:
        raise _refusal(exc.code) from None
    except (errors.ConnectionFailure, OSError) as exc:
        raise _not_reached(exc) from None
    except BSONError as exc:
        raise Permanent("document_refused", f"it is no document for it: {type(exc).__name__}") from None
    except errors.PyMongoError as exc:  # of what it is told in SYNC_URL, mostly
        if type(exc.__cause__).__module__.startswith("dns."):  # it looks up mongodb+srv:// itself
            raise _not_found() from None
        raise Transient("receiver_refused", f"it cannot be used: {type(exc).__name__}") from None


def _refusal(code: int | None) -> Transient | Permanent:
    if code in _NOT_LET_IN:
        return Transient(
            "receiver_refused", f"it does not let us in ({code}): look at user and rights in SYNC_URL"
        )
    if code in _TOO_LARGE:
        return Permanent("document_too_large", f"it is too large for it ({code})")
    if code in _REFUSED:
        return Permanent(
            "document_refused", f"it refuses this document ({code}): look at the collection's rules"
        )
    return Transient("receiver_busy", f"it could not do it ({code})")


def _not_reached(exc: Exception) -> Transient:
    text = str(exc)
    if any(mark in text for mark in _OF_TLS):
        return Transient(
            "tls_failed", "no secure connection: look at its certificate, and at what SYNC_URL says of tls"
        )
    if any(mark in text for mark in _OF_NAMES):
        return _not_found()
    return Transient("receiver_away", f"it cannot be reached: {type(exc).__name__}")


def _not_found() -> Transient:
    return Transient("receiver_away", "its name is unknown here: look at the host in SYNC_URL")
