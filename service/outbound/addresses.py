"""Parse addresses from outside, with bounds that hold before any library reads them."""

import re
from string import ascii_letters, digits, punctuation
from urllib.parse import quote

from yarl import URL

from service.errors import Permanent, Transient

# Zendesk's addresses are shorter than 1 kB. The DNS bounds a host; IDNA takes quadratic time for a longer
# one.
MOST_ADDRESS = 8192
MOST_HOST = 253

_PRINTABLE = ascii_letters + digits + punctuation
_AUTHORITY = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]{0,20}:)?[/\\]{2}([^/\\?#]*)")
_TOKEN = re.compile(r"/attachments/token/([^/?#]+)")
# Zendesk redirects a browser that is not signed in here: /access/unauthenticated, /auth/v2/login/signin,
# /hc/en-us/signin
_SIGN_IN = re.compile(r"/(access|auth/v\d+|login|signin|sign_in|users/sign_in|hc/([^/]+/)?signin)(/|$)")


def parse(address: str) -> URL:
    """Parse the address of a file; raises Permanent("bad_url")."""
    if not address.strip():
        unknown = "the webhook announces this file without an address, and Zendesk does not list it"
        raise Permanent("bad_url", f"{unknown}: check the ticket, then retry")
    parsed = _absolute(URL(), address.strip())
    if parsed is None:
        raise Permanent("bad_url", "the attachment's address is not a URL")
    return parsed


def redirected(hop: URL, location: str) -> URL:
    """Return the target of a redirect; raises Transient and Permanent."""
    target = _absolute(hop, location) if location else None
    if target is None:
        raise Transient("bad_response", f"{hop.raw_host} redirects to an invalid URL")
    if hop.scheme == "https" != target.scheme:
        raise Permanent("address_refused", f"{hop.raw_host} redirects from https to {target.scheme}")
    return target


def is_sign_in(url: URL) -> bool:
    """Say whether the URL is one of Zendesk's sign-in pages."""
    return bool(_SIGN_IN.match(url.raw_path))


def host_of(address: str) -> str:
    """Return the host, of at most MOST_HOST characters; "" if the address has none."""
    parsed = _absolute(URL(), address.strip())
    return (parsed.raw_host or "") if parsed else ""


def attachment_key(address: str) -> str:
    """Return a key that is equal for all spellings of one attachment's address."""
    token = _TOKEN.search(address)
    return token[1] if token else address.strip()


def _absolute(base: URL, text: str) -> URL | None:
    """Keep every byte that a request line may hold: the address may be signed."""
    authority = _AUTHORITY.match(text[:MOST_ADDRESS])
    if len(text) > MOST_ADDRESS or (authority and _is_long(authority[1])):
        return None
    try:
        url = base.join(URL(quote(text, safe=_PRINTABLE, errors="surrogateescape"), encoded=True))
        whole = url.scheme and url.raw_host  # yarl splits host and port only here, and may raise
    except ValueError:
        return None
    return url if whole else None


def _is_long(authority: str) -> bool:
    host = authority.rpartition("@")[2]
    port = re.search(r":\d{0,5}$", host, re.ASCII)
    return len(host[: port.start()] if port else host) > MOST_HOST or len(authority) > 2 * MOST_HOST
