"""An endpoint as a target: documents are posted to it as signed webhooks."""

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property

from aiohttp import ClientSession

from service.errors import Permanent, Transient
from service.outbound.signed_post import PostResponse, open_session, post, reach, signed
from service.targets.document import Document, to_json

# Printable ASCII, valid in a header.
_HEADER_SAFE = re.compile(r"[\x21-\x7e]{1,200}")
# Statuses that concern one document only: https://www.rfc-editor.org/rfc/rfc9110#section-15.5
_DOCUMENT_CODES = {413: "document_too_large", 422: "document_refused"}
# Many receivers also answer 400 to a bad signature or a bad timestamp.
_BAD_REQUEST = 400
_UNAUTHORIZED = frozenset({401, 403})
_BUSY = frozenset({408, 409, 425, 429})


class Endpoint:
    """Post each document; receivers detect repetitions by `webhook-id` and newer states by `version`."""

    name = "webhook"
    can_be_tried = False

    def __init__(self, url: str, secrets: Sequence[str], seconds: float) -> None:
        self._url = url
        self._secrets = secrets
        self._seconds = seconds
        self._accepts_others = False  # whether it accepted a document since the start or its last 400

    async def write(self, document: Document) -> None:
        content = document.content
        body = to_json(
            {
                "type": f"email.{content['status']}",
                "timestamp": content.get("completed_at") or content.get("deleted_at"),
                "data": {"id": document.key, **content},
            }
        )
        headers = signed(message_id(document), body, *self._secrets)
        answer = await post(self._session, self._url, body.encode(), headers)
        if answer.is_good:
            self._accepts_others = True
            return
        raise self._refusal(answer)

    async def check(self) -> None:
        """Do nothing: a test document would stay at the receiver."""

    async def reach(self) -> None:
        """Raise Transient if no server answers at the address; post nothing."""
        await reach(self._session, self._url)

    async def close(self) -> None:
        if "_session" in vars(self):
            await self._session.close()

    def _refusal(self, answer: PostResponse) -> Transient | Permanent:
        said = f"answered {answer.status}"
        if code := _DOCUMENT_CODES.get(answer.status):
            return Permanent(code, f"{said} to this e-mail")
        if answer.status == _BAD_REQUEST and self._accepts_others:
            # If the signature is the cause after all, at most one e-mail fails.
            self._accepts_others = False
            return Permanent("document_refused", f"{said} to this e-mail, and accepted others")
        if answer.status in _BUSY or answer.status >= 500:
            return Transient("receiver_busy", said, answer.retry_after)
        return Transient(
            "receiver_refused",
            f"{said}: check {_setting(answer.status)}, and the documentation of the receiver",
        )

    @cached_property
    def _session(self) -> ClientSession:
        """Open the session on first use, inside the event loop, and keep its connections."""
        return open_session(self._seconds)


def message_id(document: Document) -> str:
    """Return the id of a message: the e-mail's key, after a retry with the version.

    A receiver may drop a message whose id it already knows.
    """
    key = document.key
    if not _HEADER_SAFE.fullmatch(key):
        key = f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
    return key if document.is_first else f"{key}:{document.version}"


def _setting(status: int) -> str:
    if status == _BAD_REQUEST:
        return "SYNC_WEBHOOK_SECRET, this host's clock"
    return "SYNC_WEBHOOK_SECRET" if status in _UNAUTHORIZED else "the address in SYNC_URL"
