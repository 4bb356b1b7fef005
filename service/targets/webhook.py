"""An address that takes documents as signed webhooks."""

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property

from aiohttp import ClientSession

from service.errors import Permanent, Transient
from service.outbound.signed_post import Answer, open_session, post, reach, signed
from service.targets.document import Document, to_json

# Printable ASCII, as a header may hold it.
_PLAIN = re.compile(r"[\x21-\x7e]{1,200}")
# About the document, and no other: https://www.rfc-editor.org/rfc/rfc9110#section-15.5
_OF_A_DOCUMENT = {413: "document_too_large", 422: "document_refused"}
# Many answer so to a signature or a time that they do not accept, too.
_OF_EITHER = 400
_NOT_LET_IN = frozenset({401, 403})
_BUSY = frozenset({408, 409, 425, 429})


class Endpoint:
    """Posts each document; its receiver knows repetitions by `webhook-id`, and later states by `version`."""

    name = "webhook"
    can_be_tried = False

    def __init__(self, url: str, secrets: Sequence[str], seconds: float) -> None:
        self._url = url
        self._secrets = secrets
        self._seconds = seconds
        self._takes_others = False  # since it answered 400, or since the start

    async def write(self, document: Document) -> None:
        content = document.content
        body = to_json(
            {
                "type": f"email.{content['status']}",
                "timestamp": content["completed_at"],
                "data": {"id": document.key, **content},
            }
        )
        headers = signed(message_id(document), body, *self._secrets)
        answer = await post(self._session, self._url, body.encode(), headers)
        if answer.is_good:
            self._takes_others = True
            return
        raise self._refusal(answer)

    async def check(self) -> None:
        """Do nothing: whoever posts to find out leaves something there."""

    async def reach(self) -> None:
        """Raise Transient if no server answers at the address; nothing is posted."""
        await reach(self._session, self._url)

    async def close(self) -> None:
        if "_session" in vars(self):
            await self._session.close()

    def _refusal(self, answer: Answer) -> Transient | Permanent:
        said = f"it answered {answer.status}"
        if code := _OF_A_DOCUMENT.get(answer.status):
            return Permanent(code, f"{said} to this e-mail")
        if answer.status == _OF_EITHER and self._takes_others:
            # If it is not about this one after all, no second one is lost to it.
            self._takes_others = False
            return Permanent("document_refused", f"{said} to this e-mail, and took others")
        if answer.status in _BUSY or answer.status >= 500:
            return Transient("receiver_busy", said, answer.retry_after)
        return Transient(
            "receiver_refused", f"{said}: look at {_suspect(answer.status)}, and at what it expects"
        )

    @cached_property
    def _session(self) -> ClientSession:
        """Open it when there is a loop to open it on, and keep its connections."""
        return open_session(self._seconds)


def message_id(document: Document) -> str:
    """Name a message: the e-mail's key, and for what came of running it again, the version as well.

    A receiver may drop what it has had by that name.
    """
    key = document.key
    if not _PLAIN.fullmatch(key):
        key = f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
    return key if document.is_first else f"{key}:{document.version}"


def _suspect(status: int) -> str:
    if status == _OF_EITHER:
        return "SYNC_WEBHOOK_SECRET, at this host's clock"
    return "SYNC_WEBHOOK_SECRET" if status in _NOT_LET_IN else "the address in SYNC_URL"
