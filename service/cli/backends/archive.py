"""The ZIP of an e-mail from a server: its files are safe to write, and are compared with its manifest."""

import asyncio
import io
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import IO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

from pydantic import BaseModel, ValidationError

from service.errors import Permanent
from service.formatting import printable
from service.queries.archive import FOLDER, MANIFEST, Part

_MOST_BYTES = 16 * 1024**2  # of a manifest, and of the table of contents
_PIECE_BYTES = 1024**2
_BROKEN = (BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, KeyError)


class _File(BaseModel):
    name: str
    size: int
    sha256: str


class _Manifest(BaseModel):
    files: Sequence[_File]


def read_parts(file: IO[bytes]) -> list[Part]:
    """Return the parts of a ZIP; raises Permanent (`archive_damaged`), also while they are read."""
    with _read_as_zip():
        archive = ZipFile(_Careful(file))
        about = archive.getinfo(MANIFEST)
        if about.file_size > _MOST_BYTES:
            raise BadZipFile("the manifest is too large")
        content = archive.read(MANIFEST)
        listed = _Manifest.model_validate_json(content).files
    manifest = _File(name=MANIFEST, size=len(content), sha256=sha256(content).hexdigest())
    files = [*listed, manifest]
    kinds = {each.compress_type for each in archive.infolist()}
    if [each.name for each in files] != archive.namelist() or not kinds <= {ZIP_STORED, ZIP_DEFLATED}:
        raise _damaged("its files are not those of its manifest")
    if unsafe := next((each.name for each in files if not _is_safe(each.name)), None):
        raise _damaged(f"{printable(unsafe)[:100]} is no name of a file")
    return [Part(each.name, each.size, each.sha256, _content(archive, each)) for each in files]


async def checked(file: IO[bytes], parts: Sequence[Part]) -> AsyncIterator[bytes]:
    """Yield the ZIP itself, once all of its parts were read and compared."""
    for part in parts:
        async for _ in part.chunks:
            pass
    file.seek(0)
    while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
        yield piece


class _Careful(io.BufferedIOBase):
    """A file that refuses to read much at a time: a ZIP says itself how large its table of contents is."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int | None = -1, /) -> bytes:
        is_all = size is None or size < 0
        content = self._file.read(_MOST_BYTES + 1 if is_all else min(size or 0, _MOST_BYTES + 1))
        if len(content) > _MOST_BYTES:
            raise BadZipFile("its table of contents is too large")
        return content

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


async def _content(archive: ZipFile, file: _File) -> AsyncIterator[bytes]:
    found, size = sha256(), 0
    with _read_as_zip(), archive.open(file.name) as opened:
        while piece := await asyncio.to_thread(opened.read, _PIECE_BYTES):
            size += len(piece)
            if size > file.size:
                break
            await asyncio.to_thread(found.update, piece)
            yield piece
    if (size, found.hexdigest()) != (file.size, file.sha256):
        raise _damaged(f"{file.name} is not what its manifest says")


def _is_safe(name: str) -> bool:
    """Say whether a file of this name lands where it belongs, whatever wrote the name."""
    folder, slash, own = name.rpartition("/")
    return folder == (FOLDER if slash else "") and own not in {"", ".", ".."} and printable(own) == own


@contextmanager
def _read_as_zip() -> Iterator[None]:
    try:
        yield
    except ValidationError:
        raise _damaged("its manifest cannot be read") from None
    except _BROKEN as exc:
        raise _damaged(str(exc)) from None


def _damaged(what: str) -> Permanent:
    return Permanent("archive_damaged", f"the ZIP of the server is damaged ({what}): try again")
