"""What makes a secret one: long enough not to be guessed, or as Standard Webhooks writes them."""

import base64
import binascii

from pydantic import SecretStr

SHORTEST_SECRET = 16  # characters
_BYTES = range(24, 65)


def can_sign(value: SecretStr | None) -> SecretStr | None:
    """Return the secret; raises ValueError unless it is whsec_ and 24 to 64 bytes in base64."""
    if value:
        prefix, _, encoded = value.get_secret_value().partition("_")
        try:
            key = base64.b64decode(encoded, validate=True) if prefix == "whsec" else b""
        except (binascii.Error, ValueError):
            key = b""
        if len(key) not in _BYTES:
            raise ValueError("is not whsec_ and 24 to 64 bytes in base64")
    return value


def strong(value: SecretStr) -> SecretStr:
    """Return a secret without the whitespace around it; raises ValueError if it is blank or can be guessed.

    A file or a console often adds a line end, which would be part of what everybody has to send.
    """
    text = value.get_secret_value().strip()
    if not text:
        raise ValueError("is blank; set what `openssl rand -hex 32` prints, or remove the variable")
    if len(text) < SHORTEST_SECRET:
        raise ValueError(
            f"has fewer than {SHORTEST_SECRET} characters and can be guessed; set what `openssl rand -hex 32` prints"
        )
    return SecretStr(text)
