"""A MongoDB collection as a target: one document per e-mail, through PyMongo's asyncio client.

Errors are in our own words, because the driver's texts name hosts and may contain credentials.
"""

import asyncio
import json
import re
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from service.config.reading import setting_error
from service.errors import Permanent, SettingsError, Transient
from service.targets.document import SOURCE, Document

if TYPE_CHECKING:
    from pymongo import AsyncMongoClient
    from pymongo.asynchronous.collection import AsyncCollection

# https://www.mongodb.com/docs/manual/reference/limits/
_MAX_BYTES = 16 * 1024**2
_CONNECT_SECONDS = 5.0
# The range of a bigint: an `email_id` in the collection is in it, or is not a number.
MIN_ID, MAX_ID = -(2**63), 2**63 - 1
# Documents per read; each may be large.
_BATCH = 100
_CLOSE_SECONDS = 0.5

# https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml
_UNAUTHORIZED = frozenset({11, 13, 18, 8000})
_TOO_LARGE = frozenset({10334, 17419, 17420})
_REFUSED = frozenset({2, 14, 121, 11000})
# Texts by which the driver's errors are told apart: it keeps no exception of a failed server selection.
_TLS_TEXTS = ("SSL handshake failed", "[SSL", "certificate verify failed")
# Each operating system words a failed name lookup differently.
_NAME_TEXTS = (
    "Name or service not known",
    "name resolution",
    "No address associated with hostname",
    "nodename nor servname",
    "Name does not resolve",
    "getaddrinfo failed",
)

FoundDocument = Mapping[str, Any]


@dataclass(frozen=True)
class Collection:
    """Documents by their keys; each write waits for a majority of the servers."""

    name = "mongodb"
    can_be_tried = True

    _client: "AsyncMongoClient[dict[str, Any]]"
    _documents: "AsyncCollection[dict[str, Any]]"
    _seconds: float

    async def write(self, document: Document) -> None:
        from bson import encode
        from bson.raw_bson import RawBSONDocument
        from pymongo.errors import DuplicateKeyError

        content = encode({"_id": document.key, **document.content})
        if len(content) > _MAX_BYTES:
            raise Permanent(
                "document_too_large", f"the document has {len(content):,} bytes; the maximum is 16 MiB"
            )
        not_later = {"_id": document.key, "version": {"$not": {"$gt": document.version}}}
        async with self._request():
            for _ in range(2):
                try:
                    # A RawBSONDocument is a valid replacement, but the type hints accept only dict.
                    raw: Any = RawBSONDocument(content)
                    await self._documents.replace_one(not_later, raw, upsert=True)
                except DuplicateKeyError as exc:
                    if "_id" not in (exc.details or {}).get("keyPattern", {"_id": 1}):
                        raise
                    # A later version exists, or a concurrent write inserted one: the second round replaces it.
                else:
                    return
        raise Permanent("receiver_ahead", "the collection has a later version of this e-mail")

    async def check(self) -> None:
        async with self._request():
            await self._documents.find_one({"_id": ""}, {"_id": 1})

    async def try_to_write(self) -> None:
        """Send an update that matches nothing: it fails without the right to write, and changes nothing.

        Raises the errors of `write`.
        """
        async with self._request():
            await self._documents.update_one({"_id": {"$in": []}}, {"$set": {"source": SOURCE}})

    async def close(self) -> None:
        """Close the connections; repeat that after one timeout."""
        for _ in range(2):
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._client.close()
                    return

    async def prepare(self) -> None:
        """Create the index on `email_id` if it is missing; needs the right to create indexes."""
        async with self._request():
            await self._documents.create_index("email_id", name="holdfast_email_id")

    def between(self, first: int, last: int) -> AsyncGenerator[Sequence[FoundDocument], None]:
        """Yield batches of documents with `first` <= email_id < `last`, also those of other programs."""
        return self._batches({"email_id": {"$gte": first, "$lt": last}})

    def without_email_id(self) -> AsyncGenerator[Sequence[FoundDocument], None]:
        """Yield batches of documents whose email_id is missing or not a number."""
        return self._batches({"email_id": {"$not": {"$gte": MIN_ID, "$lt": MAX_ID}}})

    def with_keys(self, keys: Sequence[Any]) -> AsyncGenerator[Sequence[FoundDocument], None]:
        """Yield batches of documents with these keys, also those of other programs."""
        return self._batches({"_id": {"$in": list(keys)}})

    async def sample(self, count: int) -> Sequence[FoundDocument]:
        """Return the key and the source of randomly drawn documents."""
        async with self._request():
            drawn = await self._documents.aggregate(
                [{"$sample": {"size": count}}, {"$project": {"source": 1}}]
            )
            return await drawn.to_list()

    async def remove(self, found: FoundDocument) -> bool:
        """Remove a document unless its version has changed; return whether it was removed."""
        async with self._request():
            same = {"_id": found["_id"], **{name: found.get(name) for name in ("version", "email_id")}}
            return (await self._documents.delete_one(same)).deleted_count > 0

    async def _batches(self, query: dict[str, Any]) -> AsyncGenerator[Sequence[FoundDocument], None]:
        async with self._documents.find(query, batch_size=_BATCH) as cursor:
            while True:
                async with self._request():
                    batch = await cursor.to_list(_BATCH)
                if not batch:
                    return
                yield batch

    def _request(self) -> AbstractAsyncContextManager[None]:
        return _request(self._seconds)


def open_collection(url: str, seconds: float, *, pool_size: int) -> Collection:
    """Open a collection; nothing connects yet. Raises SettingsError, or ValueError for an invalid address."""
    from bson.codec_options import CodecOptions, DatetimeConversion
    from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
    from pymongo.errors import PyMongoError
    from pymongo.read_concern import ReadConcern

    try:
        with warnings.catch_warnings():
            # The driver ignores unknown options with a mere warning, even `tls` or `w`.
            warnings.simplefilter("error", UserWarning)
            client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
                url, **_options(url, seconds, pool_size)
            )
        database, _, collection = unquote(urlsplit(url).path).removeprefix("/").partition(".")
        documents = client[database].get_collection(
            collection,
            # Documents of other programs may hold times and texts that Python cannot represent.
            codec_options=CodecOptions(
                tz_aware=True,
                datetime_conversion=DatetimeConversion.DATETIME_AUTO,
                unicode_decode_error_handler="replace",
            ),
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern("majority", wtimeout=round(1000 * seconds)),
        )
    except UserWarning as exc:
        raise SettingsError(_complaint(str(exc))) from None
    except OSError:
        reason = (
            "the file of tlsCAFile, tlsCRLFile or tlsCertificateKeyFile is missing, or holds no certificate"
        )
        raise SettingsError(setting_error("sync_url", reason)) from None
    except PyMongoError as exc:
        raise ValueError(type(exc).__name__) from None
    return Collection(client, documents, seconds)


def copy_of(found: FoundDocument) -> dict[str, Any]:
    """Return a document as extended JSON, which keeps the types."""
    from bson.json_util import CANONICAL_JSON_OPTIONS, dumps

    copy: dict[str, Any] = json.loads(dumps(found, json_options=CANONICAL_JSON_OPTIONS))
    return copy


def _options(url: str, seconds: float, pool_size: int) -> dict[str, Any]:
    """Return our options, without those that the address sets itself."""
    own = {
        "serverSelectionTimeoutMS": round(1000 * min(seconds / 2, _CONNECT_SECONDS)),
        "connectTimeoutMS": round(1000 * min(seconds / 2, _CONNECT_SECONDS)),
        "socketTimeoutMS": round(1000 * seconds),
        "maxPoolSize": pool_size,
        "appName": "holdfast",
    }
    given = {name.lower() for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    return {name: value for name, value in own.items() if name.lower() not in given}


def _complaint(text: str) -> str:
    """Name the options in the driver's warning; the rest of its text may contain a secret."""
    from pymongo.common import URI_OPTIONS_VALIDATOR_MAP

    meant = [word for word in re.findall(r"\w+", text.lower()) if word in URI_OPTIONS_VALIDATOR_MAP]
    about = f" ({', '.join(dict.fromkeys(meant))})" if meant else ""
    reason = f"an option after the ? is unknown, repeated, or has an invalid value{about}"
    return setting_error("sync_url", reason)


@asynccontextmanager
async def _request(seconds: float) -> AsyncIterator[None]:
    """Limit the time of a request, and translate the driver's errors."""
    from bson.errors import BSONError
    from pymongo import errors

    try:
        async with asyncio.timeout(seconds):
            yield
    except (errors.NetworkTimeout, errors.ExecutionTimeout, errors.WTimeoutError, TimeoutError):
        raise Transient("receiver_slow", f"no answer within {seconds:g} s") from None
    except errors.DocumentTooLarge:
        raise Permanent("document_too_large", "the document is larger than 16 MiB") from None
    except (errors.OperationFailure, errors.BulkWriteError) as exc:
        raise _refusal(exc.code) from None
    except (errors.ConnectionFailure, OSError) as exc:
        raise _connection_error(exc) from None
    except BSONError as exc:
        raise Permanent(
            "document_refused", f"the document cannot be written as BSON: {type(exc).__name__}"
        ) from None
    except errors.PyMongoError as exc:  # mostly about options of SYNC_URL
        if type(exc.__cause__).__module__.startswith("dns."):  # the driver itself resolves mongodb+srv://
            raise _unknown_host() from None
        raise Transient("receiver_refused", f"the request failed: {type(exc).__name__}") from None


def _refusal(code: int | None) -> Transient | Permanent:
    if code in _UNAUTHORIZED:
        return Transient(
            "receiver_refused", f"access denied ({code}): check the user and the rights in SYNC_URL"
        )
    if code in _TOO_LARGE:
        return Permanent("document_too_large", f"the document is too large ({code})")
    if code in _REFUSED:
        return Permanent(
            "document_refused", f"the document was refused ({code}): check the collection's validation rules"
        )
    return Transient("receiver_busy", f"the server could not complete the request ({code})")


def _connection_error(exc: Exception) -> Transient:
    text = str(exc)
    if any(mark in text for mark in _TLS_TEXTS):
        return Transient(
            "tls_failed",
            "no secure connection: check the server's certificate, and the tls options in SYNC_URL",
        )
    if any(mark in text for mark in _NAME_TEXTS):
        return _unknown_host()
    return Transient("receiver_away", f"cannot be reached: {type(exc).__name__}")


def _unknown_host() -> Transient:
    return Transient("receiver_away", "unknown host name: check the host in SYNC_URL")
