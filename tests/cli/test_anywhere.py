"""Commands say the same over the API as beside the database."""

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest

from service.config.settings import Settings
from service.queries.answers import read_answer
from service.queries.saved_filters import SavedFilterPage
from service.resources import Resources
from tests.conftest import Server
from tests.support.anywhere import WIDE, command_elsewhere, elsewhere, keep_login
from tests.support.commands import command, read_all, typed
from tests.support.every_page import fill
from tests.support.forked import Done
from tests.support.logins import signed_in
from tests.support.messages import ORIGINAL, add_message, announce, attach, put
from tests.support.rows import NOON, add, add_quarantined_body

READS = (
    "status",
    "status --json",
    "activity",
    "activity --json --limit 2",
    "alerts --limit 2",
    "alerts --json",
    "complete",
    "complete --json",
    "complete --day today --list in_zendesk --json",
    "complete --day today --limit 1",
    "complete --before 2020-01-01",
    "emails",
    "emails --status failed --limit 2",
    "emails filters",
    "emails filters --json",
    "emails list --saved Late --json",
    "emails list --saved Late --status completed",
    "emails list --saved late",
    "emails retry --all --dry-run --saved Late",
    "emails list",
    "emails list --json",
    "emails list --status failed --not-dismissed --limit 3",
    "emails list --dismissed --json",
    "emails list --text WWWW --json --received-after 2020-01-01",
    "emails show 1",
    "emails show 1 --json",
    "emails show 2",
    "emails show 3 --json",
    "emails show 100",
    "emails show 100 --raw",
    "emails show 100 --text",
    "emails show 100 --json",
    "emails show 4 --text",
    "emails show 999",
    "emails show 555",
    "emails show 555 --raw",
    f"emails holding {'0' * 64}",
    f"emails holding {'0' * 64} --json",
    f"emails holding {'f' * 64}",
    "emails retry 4",
    "emails retry 999",
    "emails dismiss 555 --reason why --yes",
    "emails retry --all --dry-run --status queued",
    "emails retry --all --dry-run --json",
    "emails dismiss 4 999 --reason why --yes",
    "emails dismiss --all --reason why --dry-run",
    "failures",
    "failures --json",
    "failures retry long_code --dry-run",
    "retries list",
    "retries list --json",
    "retries show 1",
    "retries show 1 --json",
    "retries show 99",
    "retries wait 1",
    "retries cancel 1",
    "quarantine",
    "quarantine list",
    "quarantine list --json",
    "quarantine list --replayed",
    "quarantine list --dismissed --json",
    "quarantine list --ignored",
    "quarantine show 1",
    "quarantine show 1 --json",
    "quarantine show 1 --raw",
    "quarantine show 9 --ignored",
    "quarantine replay 3 --json",
    "quarantine replay --all --ignored",
    "quarantine undismiss 1 --yes",
    "reconcile dismiss 99 --reason why --yes",
    "open 7",
)
# Fields that another moment changes.
_MOMENT = re.compile(r"[0-9]+\.[0-9]+(?:e-[0-9]+)?|[0-9]+ (?:s|ms|min)\b")

# What the server in this process logs meanwhile.
_LOG = re.compile(r'^\{.*"event": .*"level": .*\}\n', re.MULTILINE)


async def both(settings: Settings, config: Path, words: str) -> tuple[Done, Done]:
    beside = await typed(settings, *words.split(), **WIDE)
    return beside, await elsewhere(config, *words.split())


def shown(done: Done) -> tuple[int, str, str]:
    out, errors = (_MOMENT.sub("", _LOG.sub("", text)) for text in (done.stdout, done.stderr))
    return done.returncode, out, errors


@pytest.fixture
async def config(client: Server, tmp_path: Path) -> Path:
    await keep_login(tmp_path / "config", client.url, await signed_in(client))
    return tmp_path / "config"


async def test_every_read_and_every_refusal_is_the_same(
    settings: Settings, client: Server, database: asyncpg.Connection, res: Resources, config: Path
) -> None:
    settings = settings.model_copy(update={"public_url": client.url})
    await put(res, b"first")
    await fill(database, settings)
    email_id = await add(
        database,
        id=100,
        processing_status="completed",
        received_at=NOON,
        completed_at=NOON,
        raw_body=b"{\xff",
    )
    url = await attach(database, res, email_id, 0)
    await add_message(
        database, res, email_id, "Hi \x1b[1m" + "line\n" * 30_000, f'<img src="{url}">', ORIGINAL
    )
    await announce(database, email_id)
    await add(database, "merged_emails", id=555, email_id=email_id, idempotency_key="merged")
    await add(database, "saved_filters", name="Late", filter='{"status": "failed"}', saved_by="Ada")
    await add(
        database,
        "ignored_webhooks",
        id=9,
        event_type="x",
        idempotency_key="9",
        raw_body=b"{}",
        raw_headers="[]",
    )

    different = []
    for words in READS:
        beside, away = map(shown, await both(settings, config, words))
        if beside != away:
            different.append((words, beside, away))

    assert different == []


async def test_every_action_does_the_same(
    settings: Settings, client: Server, database: asyncpg.Connection, config: Path
) -> None:
    """Each command acts twice, on rows that are alike."""
    for number in range(1, 9):
        await add(database, id=number, processing_status="failed", error_code=f"code_{number % 2}")
    for number in range(1, 7):
        await add_quarantined_body(database, b'{"ticket_id": %d' % number, idempotency_key=str(number))
    actions = (
        ("emails dismiss {} --reason hopeless --yes", (1, 2)),
        ("emails undismiss {} --yes --json", (1, 2)),
        ("emails retry {} --json", (1, 2)),
        ("emails retry {}", (3, 4)),
        ("emails dismiss --all --error-code code_{} --reason hopeless --yes", (1, 0)),
        ("emails undismiss --all --error-code code_{} --yes --json", (1, 0)),
        ("failures retry code_{} --yes", (1, 0)),
        ("failures dismiss code_{} --reason x --yes", (1, 0)),
        ("retries cancel {}", (1, 2)),
        ("retries cancel {} --json", (3, 4)),
        ("quarantine dismiss {} --reason spam --yes", (1, 2)),
        ("quarantine undismiss {} --yes --json", (1, 2)),
        ("quarantine replay {}", (1, 2)),
        ("quarantine dismiss --all --code {} --reason x --yes", ("malformed_json", "malformed_json")),
        ("quarantine undismiss --all --yes {}", ("", "")),
    )

    for words, (here, there) in actions:
        beside = await typed(settings, *words.format(here).split(), **WIDE)
        away = await elsewhere(config, *words.format(there).split())
        alike = [
            re.sub(r"[0-9]+|[^ \"]+@[^ ]+(?= \(command)", "N", str(shown(each))) for each in (beside, away)
        ]
        assert alike[0] == alike[1], words

    actors = await database.fetch(
        "SELECT actor, count(*) FROM operator_actions WHERE action <> 'confirm_login' GROUP BY 1"
    )
    assert {re.sub(r".*@.* \(", "(", row["actor"]) for row in actors} == {"(command line)"}
    assert "Ada@laptop (command line)" in {row["actor"] for row in actors}


async def test_database_wins_unless_a_server_is_named(
    settings: Settings, client: Server, database: asyncpg.Connection, config: Path
) -> None:
    await add(database, processing_status="failed")
    words = ("emails", "dismiss", "1", "--reason", "x", "--yes")

    await typed(settings, *words, XDG_CONFIG_HOME=str(config))
    named = await typed(
        settings, "emails", "undismiss", "1", "--yes", "--server", client.url, XDG_CONFIG_HOME=str(config)
    )

    assert named.returncode == 0, named.stderr
    actors = await database.fetch("SELECT actor FROM operator_actions WHERE email_id = 1 ORDER BY id")
    assert "laptop" not in actors[0]["actor"]
    assert actors[1]["actor"] == "Ada@laptop (command line)"


async def test_downloads_and_exports_write_the_same_files(
    settings: Settings, client: Server, database: asyncpg.Connection, res: Resources, config: Path
) -> None:
    for number, text in ((1, "Gr\u00fc\u00dfe\n"), (2, "line\n" * 30_000)):
        await add(database, id=number, processing_status="completed", completed_at=NOON)
        url = await attach(database, res, number, 0)
        await add_message(database, res, number, text, f'<img src="{url}">', ORIGINAL)
    await attach(database, res, 1, 1, b"%PDF" * 500_000, "../\u202egpj.exe")
    await attach(database, res, 1, 2, b"damaged", "bad.txt")
    await add(database, id=3, raw_body=b'{"body": "Hello"}', raw_headers="[]")
    await add(database, "merged_emails", id=555, email_id=2, idempotency_key="merged")
    key = await database.fetchval("SELECT object_key FROM attachments WHERE position = 2")
    await asyncio.to_thread((config.parent / "objects" / key).write_bytes, b"wolf-ed")
    downloads = ("emails download 2 3 999 --to {}", "emails download 555 3 --zip --to {}")
    exports = ("emails export --files {}", "emails export --ticket 1 --output {}/out.jsonl")

    for number, words in enumerate((*downloads, *exports)):
        places = [config.parent / f"{side}{number}" for side in ("beside", "away")]
        beside = await command(settings, *words.format(places[0]).split(), **WIDE)
        away = await command_elsewhere(settings, config, *words.format(places[1]).split())

        assert shown(away) == shown(beside)
        written = [await asyncio.to_thread(read_all, place) for place in places]
        assert written[0] == written[1] != {}
        assert b"wolf-ed" not in written[0].values()


@pytest.mark.parametrize("as_zip", [True, False])
async def test_download_of_a_damaged_email_is_an_error_from_anywhere(
    settings: Settings,
    client: Server,
    database: asyncpg.Connection,
    res: Resources,
    config: Path,
    *,
    as_zip: bool,
) -> None:
    await add(database, id=1)
    await attach(database, res, 1, 0, b"a" * 5_000_000, "large.bin")
    key = await database.fetchval("SELECT object_key FROM attachments")
    await asyncio.to_thread((config.parent / "objects" / key).write_bytes, b"b" * 5_000_000)
    out = config.parent / "out"

    words = f"emails download 1 {'--zip' * as_zip} --to {out}".split()
    done = await command_elsewhere(settings, config, *words)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("E-mail 1: ")
    assert await asyncio.to_thread(read_all, out) == {}


async def test_many_pages_are_read_to_the_end(
    settings: Settings, client: Server, database: asyncpg.Connection, config: Path
) -> None:
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status) SELECT n, 'completed' FROM generate_series(1, 450) n"
    )
    for words in ("emails list --limit 430", "emails list --limit 999 --json"):
        beside, away = await both(settings, config, words)
        assert shown(away) == shown(beside)
        assert len(away.stdout.splitlines()) >= 430


async def test_status_of_a_killed_server_is_an_error(client: Server, config: Path) -> None:
    await client.stop()

    done = await elsewhere(config, "status")

    assert (done.returncode, done.stdout) == (1, "")
    assert f"{client.url} cannot be reached: Connection refused" in done.stderr


@pytest.mark.parametrize("depth", [300, 5_000])
def test_a_nested_answer_is_an_error(depth: int) -> None:
    nested: object = 1
    for _ in range(depth):
        nested = {"filters": [nested]}

    with pytest.raises(ValueError, match=r"nested too deeply|filters"):
        read_answer(SavedFilterPage, nested)
