"""Open a bucket with what the vendors' own variables say."""

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from obstore.store import from_url

if TYPE_CHECKING:
    from obstore.store import ObjectStore  # exists for type checkers only

_VENDORS = ("AWS", "AZURE", "GOOGLE")
_TRUE = {"1", "true", "on", "yes", "y"}


def open_store(url: str, *, request_seconds: float) -> "ObjectStore":
    """Open it without touching it; raises the vendor's error if the URL or a variable is wrong."""
    more: dict[str, Any] = {}
    if url.startswith(("s3:", "s3a:")) and _sends_checksums():
        more["checksum_algorithm"] = "SHA256"
    return from_url(
        url,
        client_options={
            # Client options given here replace those of the environment, so this one is handed on.
            "allow_http": _is_on("ALLOW_HTTP"),
            "connect_timeout": timedelta(seconds=5),
            "timeout": timedelta(seconds=request_seconds),
            "user_agent": "holdfast",
        },
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=20)},
        **more,
    )


def is_anonymous() -> bool:
    """Tell whether requests are not signed: who asks for a signature would look for credentials that are not there."""
    return _is_on("SKIP_SIGNATURE")


def _sends_checksums() -> bool:
    """Tell whether to send SHA-256, where the operator asks neither for another algorithm nor for none.

    The second variable is that of AWS's own clients, for servers that know no checksums:
    https://docs.aws.amazon.com/sdkref/latest/guide/feature-dataintegrity.html
    """
    is_asked = bool(os.environ.get("AWS_CHECKSUM_ALGORITHM"))
    wish = os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION", "")
    return not is_asked and wish.lower() != "when_required"


def _is_on(name: str) -> bool:
    return any(os.environ.get(f"{vendor}_{name}", "").lower() in _TRUE for vendor in _VENDORS)
