"""Decode the content codings of a response, within bounds: we ask for none, but some servers apply them anyway.

https://www.rfc-editor.org/rfc/rfc9110#field.content-encoding
"""

import sys
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from typing import Protocol

import brotli

from service.errors import Permanent, Transient

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

# The most decoded bytes of one step.
CHUNK_BYTES = 256 * 1024
# Two codings on top of each other are unusual, more are an attack.
MOST_CODINGS = 2
# 8 MiB, the window that RFC 8878 asks every decoder to support; the default is 128 MiB.
_ZSTD_WINDOW_LOG = 23
# The most input of one step, and the most streams in one file: each new stream copies the rest of the step's
# input.
_SLICE_BYTES = 64 * 1024
_MOST_STREAMS = 10_000
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

_NAMES = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate", "br": "br", "zstd": "zstd"}
# Registered codings that this module cannot decode: https://www.iana.org/assignments/http-parameters
_UNSUPPORTED = frozenset({"compress", "x-compress", "exi", "pack200-gzip", "dcb", "dcz"})
# Files with these names are compressed themselves, and some servers name their format as a coding.
_SUFFIXES = {"gzip": (".gz", ".tgz", ".svgz", ".emz", ".wmz"), "br": (".br",), "zstd": (".zst", ".tzst")}


def codings_of(header: str, file_name: str) -> list[str]:
    """Parse a Content-Encoding; return the codings in the order of decoding.

    Words that are not registered codings (`aws-chunked`, `UTF-8`, `none`, `binary`) are ignored. Raises
    Permanent for more than two codings, or for one that this module cannot decode.
    """
    parts = (part.partition(";")[0].lower().split() for part in header.split(","))
    words = [word for part in parts for word in part]
    if unsupported := _UNSUPPORTED.intersection(words):
        raise Permanent("unexpected_encoding", f"the file came compressed as {min(unsupported)}, unasked")
    codings = [_NAMES[word] for word in reversed(words) if word in _NAMES]
    if len(codings) > MOST_CODINGS:
        raise Permanent("unexpected_encoding", f"the file came compressed {len(codings)} times, unasked")
    if len(codings) == 1 and file_name.lower().endswith(_SUFFIXES.get(codings[0], ())) and file_name:
        return []
    return codings


async def decoded(
    chunks: AsyncIterator[bytes], codings: Iterable[str], max_bytes: int
) -> AsyncGenerator[bytes]:
    """Yield the decoded bytes, in pieces of at most CHUNK_BYTES.

    Raises Permanent("decoded_too_large") for more than `max_bytes`, and Transient("bad_encoding") if the
    bytes cannot be decoded.
    """
    for coding in codings:
        chunks = _decoded_once(chunks, coding, max_bytes)
    async for chunk in chunks:
        yield chunk


async def _decoded_once(chunks: AsyncIterator[bytes], coding: str, max_bytes: int) -> AsyncGenerator[bytes]:
    decoder, total = _Decoder(coding), 0
    async for chunk in _with_head(chunks):
        for start in range(0, len(chunk), _SLICE_BYTES):
            for piece in decoder.feed(chunk[start : start + _SLICE_BYTES]):
                total += len(piece)
                if total > max_bytes:
                    raise Permanent("decoded_too_large", f"decompressed, it has more than {max_bytes} bytes")
                yield piece
    decoder.finish()


async def _with_head(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Join the first chunks until they are long enough for a format's magic bytes."""
    head = b""
    async for chunk in chunks:
        head += chunk
        if len(head) >= len(_ZSTD_MAGIC):
            yield head
            head = b""
    if head:
        yield head


class _Stream(Protocol):
    """Decompresses one stream: each step returns at most CHUNK_BYTES, and continues after the last one."""

    def step(self, data: bytes) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


class _Decoder:
    """Decompresses consecutive streams; bytes that do not begin with a stream pass unchanged."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._stream: _Stream | None = None
        self._streams = 0
        self._is_plain = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            while data and not self._is_plain:
                stream = self._stream or self._open(data)
                if stream is None:
                    break
                while piece := stream.step(data):
                    yield piece
                    data = b""
                    if stream.eof:
                        break
                data = b""
                if stream.eof:
                    self._stream, data = None, stream.unused_data
        except (zlib.error, brotli.error, ZstdError) as exc:
            raise self._broken("cannot be decoded") from exc
        if data and self._is_plain:
            yield data

    def finish(self) -> None:
        """Raise Transient if the last stream is not complete."""
        if self._stream is not None:
            raise self._broken("breaks off")

    def _open(self, data: bytes) -> _Stream | None:
        """Begin the next stream; None if the rest is padding or not compressed."""
        if self._streams and not data.strip(b"\0"):
            return None  # padding
        self._streams += 1
        if self._streams > _MOST_STREAMS:
            raise self._broken("consists of too many parts")
        self._stream = _open(self._coding, data)
        self._is_plain = self._stream is None and self._streams == 1
        if self._stream is None and not self._is_plain:
            raise self._broken("is followed by other bytes")
        return self._stream

    def _broken(self, what: str) -> Transient:
        return Transient("bad_encoding", f"the file came compressed as {self._coding}, unasked, and {what}")


def _open(coding: str, data: bytes) -> _Stream | None:
    if coding == "br":
        return _Brotli()
    if coding == "zstd":
        is_skippable = data[1:4] == b"\x2a\x4d\x18" and data[0] >> 4 == 5
        return _Zstd() if is_skippable or data.startswith(_ZSTD_MAGIC[: len(data)]) else None
    if coding == "gzip":
        return _Zlib(zlib.MAX_WBITS + 16) if data.startswith(_GZIP_MAGIC[: len(data)]) else None
    # "deflate" means zlib's format; some servers send the raw one.
    has_header = len(data) > 1 and data[0] & 15 == 8 and (data[0] << 8 | data[1]) % 31 == 0
    return _Zlib(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)


class _Zlib:
    def __init__(self, wbits: int) -> None:
        self._zlib = zlib.decompressobj(wbits)

    def step(self, data: bytes) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, CHUNK_BYTES)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data


class _Zstd:
    def __init__(self) -> None:
        self._zstd = ZstdDecompressor(options={DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})

    def step(self, data: bytes) -> bytes:
        return b"" if self._zstd.eof else self._zstd.decompress(data, CHUNK_BYTES)

    @property
    def eof(self) -> bool:
        return self._zstd.eof

    @property
    def unused_data(self) -> bytes:
        return self._zstd.unused_data


class _Brotli:
    unused_data = b""  # brotli itself refuses bytes after its end

    def __init__(self) -> None:
        self._brotli = brotli.Decompressor()

    def step(self, data: bytes) -> bytes:
        if not data and self._brotli.is_finished():
            return b""
        return bytes(self._brotli.process(data, output_buffer_limit=CHUNK_BYTES))

    @property
    def eof(self) -> bool:
        return bool(self._brotli.is_finished())
