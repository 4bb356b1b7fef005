"""The keys that sign heads: from the settings, or one that Postgres keeps."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.config.settings import Settings

if TYPE_CHECKING:
    # Imported where it is used: a process that signs nothing yet needs no memory for it.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

# A signature of something else can never be taken for that of a head.
PURPOSE = b"holdfast evidence head\n"


@dataclass(frozen=True)
class SigningKeys:
    """The key that signs, and the public keys of the settings: those that Postgres's owner does not know the private part of."""

    private: "Ed25519PrivateKey"
    trusted: Sequence[bytes]

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes_raw()

    def sign(self, body: str) -> bytes:
        """Sign a head."""
        return self.private.sign(PURPOSE + body.encode())


def new_key() -> bytes:
    """Make a private key for an installation without EVIDENCE_KEY: any 32 random bytes are one (RFC 8032)."""
    return secrets.token_bytes(32)


def public_of(private: bytes) -> bytes:
    """Return the public part of a private key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 see above

    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def signing_keys(settings: Settings, kept: bytes) -> SigningKeys:
    """Return the keys of the settings; without any, the one that Postgres keeps."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 see above

    seeds = [bytes.fromhex(each.get_secret_value()) for each in settings.evidence_key]
    private = Ed25519PrivateKey.from_private_bytes(seeds[0] if seeds else kept)
    return SigningKeys(private, [public_of(seed) for seed in seeds])


def is_signed(public: bytes, body: str, signature: bytes) -> bool:
    """Say whether a head is signed with this key."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 see above
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 see above

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, PURPOSE + body.encode())
    except (InvalidSignature, ValueError):
        return False
    return True
