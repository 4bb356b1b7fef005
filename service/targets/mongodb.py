"""A collection of MongoDB's that holds one document an e-mail, through PyMongo's own asyncio client."""

import asyncio
import json
import re
import warnings
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from service.config.reading import setting_error
from service.errors import Permanent, SettingsError
from service.targets.document import SOURCE, Document
from service.targets.mongodb_failures import asking

if TYPE_CHECKING:
    from pymongo import AsyncMongoClient
    from pymongo.asynchronous.collection import AsyncCollection

# https://www.mongodb.com/docs/manual/reference/limits/
MOST_BYTES = 16 * 1024**2
_CONNECT_SECONDS = 5.0
# What an e-mail's number can be; by its index there is nothing else to find than these and what is no number.
LEAST_ID, MOST_ID = -(2**63), 2**63 - 1
# Documents read at once: they may be large.
_BATCH = 100
_GOODBYE_SECONDS = 0.5

Found = Mapping[str, Any]


@dataclass(frozen=True)
class Collection:
    """Documents under their keys; each write waits until most of the servers have it."""

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
        if len(content) > MOST_BYTES:
            raise Permanent(
                "document_too_large", f"as a document it has {len(content):,} bytes, 16 MiB is the most"
            )
        not_later = {"_id": document.key, "version": {"$not": {"$gt": document.version}}}
        async with self._asking():
            for _ in range(2):
                try:
                    # A Mapping, and so a replacement; the types know dicts only.
                    raw: Any = RawBSONDocument(content)
                    await self._documents.replace_one(not_later, raw, upsert=True)
                except DuplicateKeyError as exc:
                    if "_id" not in (exc.details or {}).get("keyPattern", {"_id": 1}):
                        raise
                    # A later one is there, or one that was written at this moment, which the next try replaces.
                else:
                    return
        raise Permanent("receiver_ahead", "it has a later version of this e-mail than is on record here")

    async def check(self) -> None:
        async with self._asking():
            await self._documents.find_one({"_id": ""}, {"_id": 1})

    async def try_to_write(self) -> None:
        """Ask it to change a document that cannot be: who may not write is refused, and nothing is left there.

        Raises as `write` does.
        """
        async with self._asking():
            await self._documents.update_one({"_id": {"$in": []}}, {"$set": {"source": SOURCE}})

    async def close(self) -> None:
        """Say goodbye; to a server that does not answer once, and not again."""
        for _ in range(2):
            with suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await self._client.close()
                    return

    async def prepare(self) -> None:
        """See that ranges of e-mails can be found without reading all; it needs the right to make an index."""
        async with self._asking():
            await self._documents.create_index("email_id", name="holdfast_email_id")

    def between(self, first: int, last: int) -> AsyncGenerator[Sequence[Found], None]:
        """Give, some at a time, the documents that name an e-mail from `first` to before `last`, whoever put them there."""
        return self._batches({"email_id": {"$gte": first, "$lt": last}})

    def nameless(self) -> AsyncGenerator[Sequence[Found], None]:
        """Give those that name no e-mail by a number, some at a time."""
        return self._batches({"email_id": {"$not": {"$gte": LEAST_ID, "$lt": MOST_ID}}})

    def named(self, keys: Sequence[Any]) -> AsyncGenerator[Sequence[Found], None]:
        """Give the documents that have these keys, some at a time, whoever put them there."""
        return self._batches({"_id": {"$in": list(keys)}})

    async def some(self, count: int) -> Sequence[Found]:
        """Draw some documents by lot; give the key of each, and whose it is."""
        async with self._asking():
            drawn = await self._documents.aggregate(
                [{"$sample": {"size": count}}, {"$project": {"source": 1}}]
            )
            return await drawn.to_list()

    async def remove(self, found: Found) -> bool:
        """Remove a document, unless it has another version by now."""
        async with self._asking():
            same = {"_id": found["_id"], **{name: found.get(name) for name in ("version", "email_id")}}
            return (await self._documents.delete_one(same)).deleted_count > 0

    async def _batches(self, which: dict[str, Any]) -> AsyncGenerator[Sequence[Found], None]:
        async with self._documents.find(which, batch_size=_BATCH) as cursor:
            while True:
                async with self._asking():
                    some = await cursor.to_list(_BATCH)
                if not some:
                    return
                yield some

    def _asking(self) -> AbstractAsyncContextManager[None]:
        return asking(self._seconds)


def open_collection(url: str, seconds: float, *, pool_size: int) -> Collection:
    """Open a collection; nothing connects yet. Raises SettingsError, ValueError for an address that cannot be one."""
    from bson.codec_options import CodecOptions, DatetimeConversion
    from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
    from pymongo.errors import PyMongoError
    from pymongo.read_concern import ReadConcern

    try:
        with warnings.catch_warnings():
            # It leaves out what it does not understand, be it tls or w.
            warnings.simplefilter("error", UserWarning)
            client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
                url, **_options(url, seconds, pool_size)
            )
        database, _, collection = unquote(urlsplit(url).path).removeprefix("/").partition(".")
        documents = client[database].get_collection(
            collection,
            # Others may have put there what Python has no time or text for.
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
            "the file of tlsCAFile, tlsCRLFile or tlsCertificateKeyFile is not there, or holds no certificate"
        )
        raise SettingsError(setting_error("sync_url", reason)) from None
    except PyMongoError as exc:
        raise ValueError(type(exc).__name__) from None
    return Collection(client, documents, seconds)


def copy_of(found: Found) -> dict[str, Any]:
    """Write a document as JSON from which it can be made again, with types and all."""
    from bson.json_util import CANONICAL_JSON_OPTIONS, dumps

    copy: dict[str, Any] = json.loads(dumps(found, json_options=CANONICAL_JSON_OPTIONS))
    return copy


def _options(url: str, seconds: float, pool_size: int) -> dict[str, Any]:
    """Give our own options, but for those that the address has."""
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
    """Say which options the driver means, of those that it knows: all else may be a piece of a secret."""
    from pymongo.common import URI_OPTIONS_VALIDATOR_MAP

    meant = [word for word in re.findall(r"\w+", text.lower()) if word in URI_OPTIONS_VALIDATOR_MAP]
    about = f" (it is about {', '.join(dict.fromkeys(meant))})" if meant else ""
    reason = f"an option after the ? is unknown, has no such value, or stands there twice{about}"
    return setting_error("sync_url", reason)
