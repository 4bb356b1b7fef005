"""What aiohttp raises, as errors of ours."""

import ssl

import aiohttp
from yarl import URL

from service.errors import HoldfastError, Permanent, Transient

_FAILURES: tuple[tuple[type[BaseException], str, str], ...] = (  # the first that fits
    (aiohttp.ClientConnectorDNSError, "dns_failed", "the name does not resolve"),
    (UnicodeError, "dns_failed", "no name server can be asked for such a name"),
    (aiohttp.ClientSSLError, "tls_failed", "no secure connection"),
    (ssl.SSLError, "tls_failed", "no secure connection"),
    (aiohttp.ConnectionTimeoutError, "connection_failed", "no connection in time"),
    (aiohttp.ClientConnectorError, "connection_failed", "no connection"),
    (aiohttp.SocketTimeoutError, "download_stalled", "nothing came for longer than DOWNLOAD_STALL_SECONDS"),
    (TimeoutError, "download_timeout", "not done within DOWNLOAD_SECONDS"),
    (aiohttp.ClientPayloadError, "connection_lost", "the file broke off"),
    (OSError, "connection_lost", "the connection broke"),
    (aiohttp.ClientConnectionError, "connection_lost", "the connection broke"),
    (Exception, "bad_response", "what it answered is not HTTP as we know it"),
)


def translate(exc: Exception, hop: URL) -> HoldfastError:
    """Name what went wrong at this hop; aiohttp's own text has the whole address, which may hold a token."""
    refusal = getattr(exc, "os_error", None)
    if isinstance(refusal, Permanent):
        return Permanent(refusal.code, f"{hop.raw_host} {refusal.message}")
    code, text = next((code, text) for kind, code, text in _FAILURES if isinstance(exc, kind))
    detail = getattr(exc, "certificate_error", None) or refusal or type(exc).__name__
    return Transient(code, f"{hop.raw_host}: {text} ({detail})")
