"""Validators of secrets and URLs that several settings share; their errors show no value."""

import base64
import binascii
import re
from urllib.parse import urlsplit

from pydantic import SecretStr
from yarl import URL

SHORTEST_SECRET = 16  # characters
_KEY_BYTES = range(24, 65)
_URL = re.compile(r"[\w+]+://([^/?#@]*@)?([^/?#@:,\[]*|\[[^]]*\])(:\d{0,5})?(,[^/?#@]*)?([/?].*)?")
_WEB_URL = re.compile(r"https?://[^/?#\s]+(?:[/?#]\S*)?")
NOT_A_URL = "is not a URL; in a password, write / ? # @ : % as %2F %3F %23 %40 %3A %25"


def signing_secret(value: SecretStr | None) -> SecretStr | None:
    """Return a secret of Standard Webhooks; raises ValueError unless it is whsec_ and 24 to 64 bytes in base64."""
    if value:
        prefix, _, encoded = value.get_secret_value().partition("_")
        try:
            key = base64.b64decode(encoded, validate=True) if prefix == "whsec" else b""
        except (binascii.Error, ValueError):
            key = b""
        if len(key) not in _KEY_BYTES:
            raise ValueError("is not whsec_ and 24 to 64 bytes in base64")
    return value


def strong_secret(value: SecretStr) -> SecretStr:
    """Return a secret without surrounding whitespace; raises ValueError if it is blank or short enough to guess.

    Files and consoles often add a line end, and clients would have to send it too.
    """
    text = value.get_secret_value().strip()
    if not text:
        raise ValueError("is blank; set what `openssl rand -hex 32` prints, or remove the variable")
    if len(text) < SHORTEST_SECRET:
        raise ValueError(
            f"has fewer than {SHORTEST_SECRET} characters and can be guessed; set what `openssl rand -hex 32` prints"
        )
    return SecretStr(text)


def credential(text: str) -> str:
    """Return a user name or token without surrounding whitespace; raises ValueError if a header cannot carry it."""
    text = text.strip()
    if not text:
        raise ValueError("is blank; copy it from Zendesk, or remove the variable")
    if not text.isprintable():
        raise ValueError("has a line end or a control character within; copy it again from Zendesk")
    return text


def check_url(text: str, schemes: tuple[str, ...]) -> None:
    """Raise ValueError unless the text is a URL with one of these schemes, such as "https://"."""
    if not text.startswith(schemes):
        raise ValueError(f"must begin with {' or '.join(schemes)}")
    if not _URL.fullmatch(text):  # the errors of libraries would show parts of it
        raise ValueError(NOT_A_URL)
    if text.startswith("http") and not _can_be_parsed(text):
        raise ValueError(NOT_A_URL)
    try:
        parts = urlsplit(text)
        is_complete = parts.port or parts.netloc or parts.path.strip("/")
    except ValueError:
        is_complete = False
    if not is_complete:
        raise ValueError("names no host, or a port beyond 65535")


def is_web_url(text: str) -> bool:
    """Return whether the text is a URL of http or https, with a host and a valid port."""
    try:
        parts = urlsplit(text)
        return bool(_WEB_URL.fullmatch(text) and parts.hostname) and parts.port != 0 and _can_be_parsed(text)
    except ValueError:  # the port is not a number
        return False


def _can_be_parsed(text: str) -> bool:
    """Say whether the HTTP client can parse a URL: no name server knows a host such as "ü..example"."""
    try:
        return bool(URL(text).raw_host)
    except ValueError:
        return False
