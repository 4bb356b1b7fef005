"""Secrets that webhooks are signed with, as Standard Webhooks writes them."""

import base64
import binascii

from pydantic import SecretStr

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
