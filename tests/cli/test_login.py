"""`holdfast login` and `logout`: a browser confirms; the token stays in one file, and errors say what to do."""

import asyncio
import json
import re
import ssl
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import trustme
from aiohttp import web

from service.cli.backends import credentials
from service.cli.backends.exchange import MOST_BYTES
from service.config.settings import Settings
from service.errors import SettingsError
from service.local.zendesk.stand_in import Zendesk
from service.resources import Resources
from tests.conftest import API_TOKEN, Server, eventually
from tests.support.access import READ_TOKEN, ask, bearer, serving_readers
from tests.support.anywhere import elsewhere, keep_login
from tests.support.api import EMAILS
from tests.support.forked import Done
from tests.support.logins import answer, signed_in


@pytest.fixture
async def client(settings: Settings, zendesk: Zendesk, res: Resources) -> AsyncIterator[Server]:
    async with serving_readers(settings, zendesk) as client:
        yield client


# Python reads it once in a process. The program inherits the environment of the command.
BROWSER = "/bin/sh -c 'cd $XDG_CONFIG_HOME && echo %s > new && mv new opened'"


async def log_in(client: Server, config: Path, *words: str, token: str = API_TOKEN, **fields: object) -> Done:
    """Run `holdfast login` until its end; the browser is a program that writes the address into a file."""
    opened = config / "opened"
    await asyncio.to_thread(config.mkdir, exist_ok=True)
    command = asyncio.create_task(elsewhere(config, "login", client.url, *words, BROWSER=BROWSER))

    async def address() -> str | None:
        exists = await asyncio.to_thread(opened.exists)
        return await asyncio.to_thread(opened.read_text) if exists else None

    shown = await eventually(address)
    code = re.fullmatch(rf"{client.url}/login\?code=([A-Z]{{4}}-[A-Z]{{4}})\n", shown)
    assert code, shown
    assert (await answer(client, code[1], token, **fields)).status == 200
    done = await command
    assert code[1] in done.stderr
    return done


async def text_of(path: Path) -> str:
    return await asyncio.to_thread(path.read_text)


async def test_browser_confirms_and_commands_work_until_the_logout(
    client: Server, database: asyncpg.Connection, tmp_path: Path
) -> None:
    done = await log_in(client, tmp_path, "--name", "ada's laptop")
    file = tmp_path / "holdfast" / credentials.FILE
    (kept,) = json.loads(await text_of(file))
    listed = await elsewhere(tmp_path, "emails", "list", "--json")
    left = await elsewhere(tmp_path, "logout")
    after = await elsewhere(tmp_path, "emails", "list")

    assert done.returncode == 0
    assert re.match(rf"Signed in at {client.url} as Ada \(operator\), until .* UTC\.\n", done.stdout)
    assert kept["token"] not in done.stdout + done.stderr
    modes = await asyncio.to_thread(
        lambda: [stat.S_IMODE(each.stat().st_mode) for each in (file, file.parent)]
    )
    assert modes == [0o600, 0o700]
    assert (listed.returncode, json.loads(listed.stdout)["emails"]) == (0, [])
    assert (left.returncode, left.stdout) == (0, f"Signed out at {client.url}.\n")
    assert (await ask(client, "GET", EMAILS, headers=bearer(kept["token"]))).status == 401
    assert (after.returncode, "run `holdfast login https://HOST`" in after.stderr) == (2, True)
    assert await database.fetchval("SELECT name FROM logins") == "ada's laptop"


async def test_refused_login_keeps_nothing(client: Server, tmp_path: Path) -> None:
    done = await log_in(client, tmp_path, answer="refuse")

    assert (done.returncode, done.stdout) == (1, "")
    assert "The login was refused." in done.stderr
    assert not await asyncio.to_thread((tmp_path / "holdfast" / credentials.FILE).exists)


async def test_reader_is_told_what_needs_an_operator(client: Server, tmp_path: Path) -> None:
    await log_in(client, tmp_path, token=READ_TOKEN)

    looked = await elsewhere(tmp_path, "failures")
    acted = await elsewhere(tmp_path, "emails", "retry", "1")
    left = await elsewhere(tmp_path, "logout")

    assert (looked.returncode, acted.returncode, left.returncode) == (0, 1, 0)
    assert "may only read" in acted.stderr


async def test_newest_login_is_used_and_each_server_has_one(client: Server, tmp_path: Path) -> None:
    await keep_login(tmp_path, "https://old.example", "holdfast_old")
    await keep_login(tmp_path, client.url, "holdfast_wrong")
    file = await keep_login(tmp_path, client.url, await signed_in(client))

    done = await elsewhere(tmp_path, "retries", "list")

    assert done.returncode == 0, done.stderr
    assert [each["url"] for each in json.loads(await text_of(file))] == [client.url, "https://old.example"]


async def test_other_programs_settings_do_not_replace_or_show_the_token(
    client: Server, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    await asyncio.to_thread(netrc.write_text, "default login ada password other\n")
    await keep_login(tmp_path, client.url, await signed_in(client))
    dead = "http://127.0.0.1:1"

    done = await elsewhere(
        tmp_path, "failures", NETRC=str(netrc), HTTP_PROXY=dead, http_proxy=dead, NO_PROXY="", no_proxy=""
    )

    assert (done.returncode, done.stderr) == (0, "")


# ── what to do


@pytest.mark.parametrize("words", ["status", "tail", "listen", "retries list", "open 1", "complete"])
async def test_without_a_login_commands_name_the_one_to_run(tmp_path: Path, words: str) -> None:
    done = await elsewhere(tmp_path, *words.split(), "--env-file", "/nothing")
    named = await elsewhere(tmp_path, *words.split(), "--server", "holdfast.example")

    assert (done.returncode, named.returncode) == (2, 2)
    assert "nobody is signed in: run `holdfast login https://HOST`" in done.stderr
    assert named.stderr == (
        "Not signed in at https://holdfast.example: run `holdfast login https://holdfast.example`.\n"
    )


async def test_ended_and_revoked_logins_name_the_command(
    client: Server, database: asyncpg.Connection, tmp_path: Path
) -> None:
    token = await signed_in(client)
    await keep_login(tmp_path, client.url, token, "2020-01-01T00:00:00+00:00")
    ended = await elsewhere(tmp_path, "failures")
    await keep_login(tmp_path, client.url, token)
    await database.execute("UPDATE logins SET revoked_at = now()")
    revoked = await elsewhere(tmp_path, "failures")
    left = await elsewhere(tmp_path, "logout")

    assert (ended.returncode, ended.stderr) == (
        2,
        f"The login at {client.url} has ended: run `holdfast login {client.url}`.\n",
    )
    assert revoked.returncode == 1
    assert f"Run `holdfast login {client.url}`." in revoked.stderr
    assert (left.returncode, left.stdout) == (0, f"{client.url} did not know this login: forgotten here.\n")


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("holdfast.example", "https://holdfast.example"),
        ("https://holdfast.example/", "https://holdfast.example"),
        ("HTTPS://Holdfast.example:8443/prefix/", "https://holdfast.example:8443/prefix"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://localhost", "http://localhost"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_address_is_kept_in_one_form(address: str, kept: str) -> None:
    assert credentials.normal(address) == kept


@pytest.mark.parametrize(
    "address",
    [
        *(
            "http://holdfast.example",
            "http://127.0.0.1.example",
            "http://10.0.0.1",
            "http://localhost.example",
        ),
        *(
            "https://user:secret@holdfast.example",
            "ftp://holdfast.example",
            "https://",
            "",
            "https://h/?q",
            "https://[x",
        ),
        *("https://h:x", "https://h/#f"),
    ],
)
def test_token_is_sent_to_no_other_address(address: str) -> None:
    with pytest.raises(SettingsError, match="https://") as refused:
        credentials.normal(address)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("content", ["", "{", "[{}]", "7", '[{"url": "https://h"}]', "[" * 9999])
async def test_damaged_file_of_logins_is_reported(tmp_path: Path, content: str) -> None:
    file = await keep_login(tmp_path, "https://h", "holdfast_x")
    await asyncio.to_thread(file.write_text, content)

    done = await elsewhere(tmp_path, "failures")

    assert (done.returncode, done.stderr) == (2, f"{file} is damaged: remove it, and sign in again.\n")


async def test_file_of_logins_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    file = await keep_login(tmp_path, "https://h", "holdfast_x")
    await asyncio.to_thread(file.chmod, 0o640)

    done = await elsewhere(tmp_path, "failures")

    assert done.returncode == 2
    assert f"chmod 600 {file}" in done.stderr
    assert "holdfast_x" not in done.stderr


# ── other servers


async def serve(answers: Any, tmp_path: Path, **site: Any) -> tuple[web.AppRunner, str]:
    """Run a server that gives one answer to every request; sign in there."""
    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answers)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, **site).start()
    scheme = "https" if site else "http"
    url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
    await keep_login(tmp_path, url, "holdfast_secret")
    return runner, url


def problem(status: int, code: str, detail: str) -> web.Response:
    return web.json_response({"code": code, "detail": detail}, status=status)


STRANGE: dict[str, tuple[Callable[[], web.Response], str]] = {
    "a page": (lambda: web.Response(text="<h1>Sign in</h1>", content_type="text/html"), "is no Holdfast"),
    "a list": (lambda: web.json_response([]), "use a command of the same version"),
    "other fields": (lambda: web.json_response({"failures": [{}]}), "failures.0.error_code: Field required"),
    "a redirect": (
        lambda: web.Response(status=302, headers={"Location": "https://other.example"}),
        "redirects: give the address",
    ),
    "a missing page": (
        lambda: problem(404, "not_found", "There is no page at this address."),
        "an older version",
    ),
    "a wrong method": (lambda: problem(405, "method_not_allowed", "No."), "an older version"),
    "a gateway": (lambda: web.Response(status=502, text="bad gateway"), "is not ready: 502"),
    "a moved list": (lambda: web.Response(status=308, headers={"Location": "//other.example/"}), "redirects"),
    "forbidden": (lambda: web.Response(status=403, text="no"), "is no Holdfast, or a proxy"),
    "nested JSON": (lambda: web.Response(text="[" * 100_000), "is no Holdfast"),
    "too much": (lambda: web.Response(body=b" " * (MOST_BYTES + 1)), "sends more than"),
    "terminal codes": (lambda: problem(409, "x", "\x1b]0;title\x07"), "\ufffd]0;title"),
}


@pytest.mark.parametrize("kind", STRANGE)
async def test_strange_answer_is_one_line_with_advice(tmp_path: Path, kind: str) -> None:
    make, advice = STRANGE[kind]
    seen: list[str] = []

    async def strange(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return make()

    runner, _ = await serve(strange, tmp_path)
    try:
        done = await elsewhere(tmp_path, "failures")
    finally:
        await runner.cleanup()

    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert advice in done.stderr
    assert seen == ["Bearer holdfast_secret"]
    assert "holdfast_secret" not in done.stderr


async def test_untrusted_certificate_is_told_and_gets_no_token(tmp_path: Path) -> None:
    seen: list[object] = []

    async def record(request: web.Request) -> web.Response:
        seen.append(request)
        return web.json_response({})

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate = trustme.CA().issue_cert("127.0.0.1")
    await asyncio.to_thread(certificate.configure_cert, context)
    runner, url = await serve(record, tmp_path, ssl_context=context)
    try:
        done = await elsewhere(tmp_path, "failures")
    finally:
        await runner.cleanup()

    assert done.returncode == 1
    assert f"{url} is not trusted: its certificate" in done.stderr
    assert seen == []
