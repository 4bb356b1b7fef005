"""Files from a server: the token stays there, and a ZIP that is not what it says is not written."""

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator, Callable, Mapping
from hashlib import sha256
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web

from service.cli.backends.archive import checked, read_parts
from service.cli.backends.exchange import Server as Login
from service.cli.backends.exchange import open_exchange
from service.config.settings import Settings
from service.errors import HoldfastError, Permanent, Transient
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from tests.conftest import serving
from tests.support.anywhere import command_elsewhere, keep_login
from tests.support.commands import read_all
from tests.support.files import PDF, add_file
from tests.support.logins import signed_in
from tests.support.s3 import Bucket

MANIFEST = "manifest.json"
GOOD = {"message.txt": b"Hello", "files/a (2).pdf": b"%PDF" * 99}


async def test_export_follows_a_signed_address_without_the_token(
    bucket: Bucket,
    settings: Settings,
    zendesk: Zendesk,
    res: Resources,
    database: asyncpg.Connection,
    tmp_path: Path,
) -> None:
    settings = settings.model_copy(update={"storage_url": f"s3://{bucket.name}/files"})
    async with serving(settings, zendesk) as client:
        await add_file(database, client.res, PDF)
        await keep_login(tmp_path, client.url, await signed_in(client))
        bucket.headers.clear()
        done = await command_elsewhere(
            settings, tmp_path, "emails", "export", "--files", str(tmp_path / "out")
        )

    assert done.returncode == 0, done.stderr
    assert list((await asyncio.to_thread(read_all, tmp_path / "out")).values()) == [PDF]
    assert bucket.headers
    assert not [each for each in bucket.headers if "Bearer" in each.get("Authorization", "")]


@pytest.fixture
async def answers(tmp_path: Path) -> AsyncIterator[tuple[Login, list[web.StreamResponse]]]:
    """Run a server that gives these answers in their order."""
    given: list[web.StreamResponse] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        return given.pop(0)

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield Login(f"http://127.0.0.1:{runner.addresses[0][1]}", "holdfast_secret"), given
    await runner.cleanup()


async def fetched(login: Login) -> bytes:
    async with open_exchange(login) as exchange:
        return b"".join([piece async for piece in exchange.pieces("/file", may_be_elsewhere=True)])


@pytest.mark.parametrize(
    "location", ["", "ftp://files.example/x", "file:///etc/passwd", "/sign-in", "http://[x"]
)
async def test_a_redirect_to_no_address_of_a_bucket_is_refused(
    answers: tuple[Login, list[web.StreamResponse]], location: str
) -> None:
    login, given = answers
    given.append(web.Response(status=302, headers={"Location": location}))

    with pytest.raises(Permanent, match="redirects a file to an address that is not https"):
        await fetched(login)


async def test_a_bucket_that_redirects_or_refuses_is_named_without_its_address(
    answers: tuple[Login, list[web.StreamResponse]],
) -> None:
    login, given = answers
    for status in (302, 403, 500):
        elsewhere = {"Location": f"{login.url}/x?signature=secret"}
        given += [web.Response(status=302, headers=elsewhere), web.Response(status=status, headers=elsewhere)]

        with pytest.raises(Transient) as caught:
            await fetched(login)

        assert caught.value.message == f"The storage at 127.0.0.1 answers {status}: try again."


# ── ZIPs


def zipped(
    files: Mapping[str, bytes], listed: Mapping[str, bytes] | None = None, kind: int = zipfile.ZIP_DEFLATED
) -> bytes:
    about = [
        {"name": name, "size": len(content), "sha256": sha256(content).hexdigest()}
        for name, content in (files if listed is None else listed).items()
    ]
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", kind) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(MANIFEST, json.dumps({"files": about}))
    return sink.getvalue()


async def read(content: bytes) -> dict[str, bytes]:
    """Read the parts, and the ZIP itself again."""
    file = io.BytesIO(content)
    parts = read_parts(file)
    found = {part.name: b"".join([piece async for piece in part.chunks]) for part in parts}
    again = b"".join([piece async for piece in checked(io.BytesIO(content), read_parts(io.BytesIO(content)))])
    assert again == content
    return found


async def test_parts_of_a_zip_are_its_files() -> None:
    found = await read(zipped(GOOD))

    assert {name: content for name, content in found.items() if name != MANIFEST} == GOOD


def renamed(name: str) -> Callable[[], bytes]:
    return lambda: zipped({name: b"x"})


HOSTILE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "no ZIP": lambda: b"<html>" * 1000,
    "cut": lambda: zipped(GOOD)[:-30],
    "no manifest": lambda: zipped(GOOD).replace(b"manifest.json", b"manifest.jsox"),
    "a wrong manifest": lambda: zipped({**GOOD, "x": b""}, {"x": b"", **GOOD}),
    "a file too many": lambda: zipped(GOOD, {"message.txt": b"Hello"}),
    "a file too few": lambda: zipped({"message.txt": b"Hello"}, GOOD),
    "another content": lambda: zipped(GOOD, {**GOOD, "message.txt": b"Hellu"}),
    "another size": lambda: zipped(GOOD, {**GOOD, "message.txt": b"Hell"}),
    "a bomb": lambda: zipped({"message.txt": b"0" * 50_000_000}, {"message.txt": b"0"}),
    "a large manifest": lambda: zipped({}, {str(number): b"" for number in range(200_000)}),
    "another compression": lambda: zipped(GOOD, kind=zipfile.ZIP_LZMA),
    "damaged bytes": lambda: zipped(GOOD, kind=zipfile.ZIP_STORED).replace(b"Hello", b"Hellu"),
    "a large table of contents": lambda: zipped({f"{'x' * 60_000}{number}": b"" for number in range(300)}),
    "a name of a parent": renamed("../x"),
    "a name in a parent": renamed("files/../x"),
    "an absolute name": renamed("/etc/x"),
    "a name of a folder": renamed("files/"),
    "a name in another folder": renamed("other/x"),
    "a deep name": renamed("files/a/b"),
    "two dots": renamed("files/.."),
    "a name with an escape": renamed("files/\x1b[2J"),
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_zip_that_is_not_what_it_says_is_refused(kind: str) -> None:
    content = HOSTILE[kind]()

    with pytest.raises(HoldfastError) as caught:
        await read(content)

    assert caught.value.code == "archive_damaged"
    assert caught.value.message.isprintable()
