"""`holdfast evidence`, `GET /api/v1/evidence`, the daily mail, and a verification that was stopped."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import asyncpg
import pytest
from pydantic import SecretStr

from service.alerts.evidence_mail import mail_head
from service.errors import HoldfastError
from service.evidence.findings import Report
from service.evidence.verify import verify
from service.evidence.work import make_head
from service.resources import Resources
from tests.conftest import Server
from tests.support.commands import typed
from tests.support.evidence import populate
from tests.support.receivers import mail_server


class Stopped(Exception):
    """In place of a signal that ends the command."""


async def test_the_commands_and_the_api_tell_the_same(
    client: Server, res: Resources, database: asyncpg.Connection, tmp_path: Path
) -> None:
    empty = await client.get("/api/v1/evidence")
    before = await typed(res.settings, "evidence", "status")
    unverified = await typed(res.settings, "evidence", "verify", "--json")
    email_id = (await populate(res, 2))[0]
    head = await typed(res.settings, "evidence", "head")
    good = await typed(res.settings, "evidence", "verify", "--json")
    await database.execute("UPDATE attachments SET size = size + 1 WHERE email_id = $1", email_id)
    bad = await typed(res.settings, "evidence", "verify", "--again")
    status = await typed(res.settings, "evidence", "status", "--json")
    in_words = await typed(res.settings, "evidence", "status")
    exported = await typed(
        res.settings, "evidence", "export", "--email", str(email_id), "--to", str(tmp_path / "e.zip")
    )
    nothing = await typed(res.settings, "evidence", "export", "--to", str(tmp_path / "e.zip"))
    recent = await typed(
        res.settings, "evidence", "export", "--since", "yesterday", "--to", str(tmp_path / "r.zip")
    )

    assert (empty["size"], empty["head"]) == (0, None)
    assert "has not begun" in before.stdout
    assert (unverified.returncode, head.returncode) == (1, 0)
    assert (good.returncode, json.loads(good.stdout)["is_good"]) == (0, True)
    assert bad.returncode == 1
    assert f"row_changed: file 0 of e-mail {email_id} was changed: size" in bad.stdout
    assert "row_changed" in in_words.stdout
    view = await client.get("/api/v1/evidence")
    shown = json.loads(status.stdout)
    assert shown["verification"]["counts"]["findings"] == 2  # the row, and the object that it names
    assert {"postgres"} == {view["key"], shown["key"]}
    assert view["head"]["number"] >= shown["head"]["number"]
    assert (exported.returncode, nothing.returncode) == (0, 2)
    assert recent.stdout.startswith(f"{tmp_path / 'r.zip'}: 2 e-mails, ")
    names = await asyncio.to_thread(lambda: ZipFile(tmp_path / "e.zip").namelist())
    assert {"verify.py", "evidence.json", f"emails/{email_id}/request.body"} <= set(names)


async def test_a_stopped_verification_goes_on_where_it_was(res: Resources) -> None:
    await populate(res, 3)

    def stop(part: str, report: Report) -> None:
        if part == "emails":
            raise Stopped

    with pytest.raises(Stopped):
        await verify(res, watch=stop)
    seen: list[str] = []
    found = await verify(res, watch=lambda part, _report: seen.append(part))
    anew = await verify(res, again=True)

    assert seen[0] == "emails"
    assert "leaves" not in seen
    assert found.counts == anew.counts


async def test_the_newest_head_is_mailed_once_a_day_and_again_after_a_failure(
    res: Resources, database: asyncpg.Connection
) -> None:
    await populate(res, 1)
    number = await make_head(res)
    async with mail_server() as server:
        update = {
            "smtp_url": SecretStr(f"smtp://127.0.0.1:{server.port}"),
            "alert_email_from": "holdfast@acme.example",
            "alert_email_to": ("auditor@acme.example",),
        }
        mailing = replace(res, settings=res.settings.model_copy(update=update))
        server.says["DATA"] = "451 later"
        with pytest.raises(HoldfastError):
            await mail_head(mailing)
        server.says.clear()
        soon = await mail_head(mailing)
        await database.execute("UPDATE evidence_log SET mailed_at = mailed_at - interval '10 minutes'")
        sent = await mail_head(mailing)
        again = await mail_head(mailing)

    head = await database.fetchrow("SELECT * FROM evidence_heads WHERE number = $1", number)
    assert (soon, sent, again) == (False, True, False)
    assert head["mailed_at"] is not None
    [text] = server.texts
    assert f"Root: {head['size']}:{head['root'].hex()}" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--email", "9" * 20), "is no ID: it must be a number, as lists show it."),
        (("--since", "2026-01-02", "--until", "2026-01-01"), "--until must be later than --since."),
    ],
)
async def test_an_export_of_what_cannot_be_is_refused(
    words: tuple[str, ...], said: str, res: Resources, tmp_path: Path
) -> None:
    done = await typed(res.settings, "evidence", "export", *words, "--to", str(tmp_path / "e.zip"))

    assert done.returncode == 2
    assert said in done.stderr
    assert not await asyncio.to_thread((tmp_path / "e.zip").exists)
