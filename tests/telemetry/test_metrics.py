"""The metrics of web and workers in one valid text, and the documents that name them."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
import yaml
from aiohttp import ClientSession
from arq.worker import Worker
from prometheus_client import REGISTRY, Metric
from prometheus_client.parser import text_string_to_metric_families

from service import error_guide
from service.config.settings import Settings
from service.local.zendesk.stand_in import Fault, Zendesk
from service.postgres.engine import close_engine, connect, create_engine
from service.queries.overview import Stats
from service.resources import Resources
from service.telemetry import metrics
from service.telemetry.exposition import MOST_TEXT, exposition, process_metrics
from service.telemetry.metrics import MAX_CODES, code_label
from tests.conftest import ROOT, Client, Server, eventually, serving, working
from tests.support.files import PDF
from tests.support.proxy import before_postgres

NOTHING = Stats(
    by_status={"failed": 0},
    quarantined=0,
    open_failed=0,
    open_sync_failed=1,
    dismissed=3,
    dismissed_webhooks=0,
    capped=[],
    oldest_waiting_seconds=None,
    oldest_not_begun_seconds=None,
    by_sync_status={"pending": 2, "failed": 1},
    oldest_sync_seconds=7.5,
    oldest_by_status={"queued": 1.5},
)


def parsed(text: bytes | str) -> dict[str, Metric]:
    """Parse a text that may contain each family once; return the families by name."""
    text = text if isinstance(text, str) else text.decode()
    names = re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)
    assert sorted(names) == sorted(set(names)) == sorted(re.findall(r"^# HELP (\S+) ", text, re.MULTILINE))
    families = list(text_string_to_metric_families(text))
    return {
        f"{family.name}_total" if family.type == "counter" else family.name: family for family in families
    }


async def scraped(client: Client) -> dict[str, Metric]:
    async with client.session.get(f"{client.url}/metrics") as response:
        assert response.status == 200
        return parsed(await response.text())


def count(name: str, **labels: str) -> float:
    """Return the value of a sample; the whole registry would read files."""
    families = REGISTRY.restricted_registry([name]).collect()
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if sample.labels == labels)


def values(family: Metric, worker: str | None = None) -> dict[Any, float]:
    """Return a family's values by their labels, of one worker or of the web process."""
    return {
        tuple(
            sorted((name, value) for name, value in sample.labels.items() if name != "worker")
        ): sample.value
        for sample in family.samples
        if sample.labels.get("worker") == worker
    }


# ── what a scrape shows


async def test_one_scrape_covers_the_web_process_and_each_worker(
    client: Server, worker: Worker, settings: Settings
) -> None:
    async def told() -> dict[str, Metric] | None:
        families = await scraped(client)
        return families if values(families["holdfast_workers"]) == {(): 1} else None

    families = await eventually(told)

    names = {sample.labels.get("worker", "") for sample in families["holdfast_transitions_total"].samples}
    (name,) = names - {""}
    assert name.startswith(f"{settings.worker_name}:")
    assert "" in names
    assert any(sample.labels.get("worker") == name for sample in families["process_open_fds"].samples)
    assert not any(sample.labels.get("worker") for sample in families["python_info"].samples)


async def test_only_living_workers_are_shown(client: Server, database: asyncpg.Connection) -> None:
    text = "# HELP holdfast_attempts_total a\n# TYPE holdfast_attempts_total counter\n"
    text += 'holdfast_attempts_total{outcome="completed",code=""} 7.0\n'
    await database.executemany(
        "INSERT INTO workers (name, pid, seen_at, stopped_at, version, metrics)"
        " VALUES ($1, 4, now() - $2 * interval '1 second', $3, '1', $4)",
        [("alive", 1, None, text), ("bare", 1, None, None), ("silent", 61, None, text)],
    )
    await database.execute(
        "INSERT INTO workers (name, pid, stopped_at, version, metrics) VALUES ('stopped', 4, now(), '1', $1)",
        text,
    )

    families = await scraped(client)

    workers = {sample.labels.get("worker") for sample in families["holdfast_attempts_total"].samples}
    assert workers - {None} == {"alive:4"}
    assert values(families["holdfast_attempts_total"], "alive:4") == {
        (("code", ""), ("outcome", "completed")): 7
    }
    assert values(families["holdfast_workers"]) == {(): 2}


@pytest.mark.parametrize(
    "text",
    [
        "holdfast_webhooks_total{",
        "# TYPE holdfast_webhooks_total gauge\nholdfast_webhooks_total 1",
        '# TYPE holdfast_webhooks histogram\nholdfast_webhooks_bucket{le="1"} 1',
        "# HELP new_one of a later version\n# TYPE new_one gauge\nnew_one 1\n",
        "",
    ],
)
def test_the_text_is_valid_whatever_a_worker_wrote(text: str) -> None:
    families = parsed(exposition(NOTHING, {'a "name"\n:4': text}))

    assert families["holdfast_webhooks_total"].type == "counter"
    assert values(families["holdfast_workers"]) == {(): 1}


def test_a_workers_text_is_complete_and_small() -> None:
    text = process_metrics()

    assert text is not None
    assert len(text) < MOST_TEXT / 2
    families = parsed(text)
    assert "holdfast_attempts_total" in families
    assert not any(name.startswith("python_") for name in families)


async def test_during_an_outage_of_postgres_the_web_process_shows_its_own_metrics(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with before_postgres(settings) as (proxy, through), serving(through, zendesk) as client:
        proxy.cut()
        families = await scraped(client)

    assert families["holdfast_webhooks_total"].samples
    assert not families["holdfast_workers"].samples
    assert not families["holdfast_emails"].samples


async def test_a_worker_with_a_port_serves_its_own_metrics(
    settings: Settings, res: Resources, unused_tcp_port: int
) -> None:
    """A second worker on the host has no port, and works all the same."""
    own = settings.model_copy(update={"metrics_port": unused_tcp_port, "host": "127.0.0.1"})

    async with working(own), working(own) as second, ClientSession() as session:

        async def served() -> dict[str, Metric] | None:
            try:
                async with session.get(f"http://127.0.0.1:{unused_tcp_port}/metrics") as response:
                    return parsed(await response.text())
            except OSError:
                return None

        async def works() -> bool:
            return "res" in second.ctx

        families = await eventually(served)
        assert await eventually(works)

    assert families["holdfast_attempts_total"]


# ── what is counted


async def test_each_step_of_an_email_is_counted(client: Server, zendesk: Zendesk, settings: Settings) -> None:
    steps = [("received", "intake"), ("processing", "claim"), ("completed", "complete")]

    def now() -> dict[str, float]:
        return {
            **{to: count("holdfast_transitions_total", to=to, by=by) for to, by in steps},
            "attempts": count("holdfast_attempts_total", outcome="completed", code=""),
            "delays": count("holdfast_queue_delay_seconds_count"),
            "delay": count("holdfast_queue_delay_seconds_sum"),
            "processing": count("holdfast_processing_seconds_count"),
            "downloads": count("holdfast_download_seconds_count", host="account"),
            "bytes": count("holdfast_download_bytes_total", host="account"),
            "claims": count("holdfast_coalesced_batch_size_sum", statement="claim"),
        }

    before = now()
    receipt = await client.send(zendesk.payload(attachments=[zendesk.add_file("a.pdf", PDF)]))
    async with working(settings):
        await client.until(receipt["email_id"], "completed")

        async def is_told() -> bool:
            return now()["attempts"] > before["attempts"]

        await eventually(is_told)

    after = now()
    grown = {name: after[name] - before[name] for name in after}
    assert 0 < grown.pop("delay") < 60
    assert grown.pop("bytes") == len(PDF)
    assert grown == dict.fromkeys(grown, 1)


async def test_a_retry_is_counted_without_a_queue_delay(
    client: Server, worker: Worker, zendesk: Zendesk
) -> None:
    def now() -> list[float]:
        return [
            count("holdfast_transitions_total", to="queued", by="release"),
            count("holdfast_attempts_total", outcome="released", code="server_error"),
            count("holdfast_attachments_total", code="server_error"),
            count("holdfast_queue_delay_seconds_count"),
        ]

    before = now()
    file = zendesk.add_file("a.pdf", PDF, faults=[Fault(status=500)])

    receipt = await client.send(zendesk.payload(attachments=[file]))
    await client.until(receipt["email_id"], "completed")

    assert [after - old for after, old in zip(now(), before, strict=True)] == [1, 1, 1, 1]


async def test_bytes_are_counted_by_the_host_that_sent_them(
    zendesk: Zendesk, settings: Settings, res: Resources
) -> None:
    """An account redirects to another host for its files."""
    account = zendesk.url.replace("127.0.0.1", "localhost")
    settings = settings.model_copy(update={"zendesk_url": account})
    file = zendesk.add_file("a.pdf", PDF, public=True)
    before = {name: count("holdfast_download_bytes_total", host=name) for name in ("account", "cdn")}
    refused = count("holdfast_download_seconds_count", host="other")

    async with serving(settings, zendesk) as client, working(settings):
        receipt = await client.send(zendesk.payload(attachments=[file]))
        email = await client.until(receipt["email_id"], "completed")
        bad = await client.send({"ticket_id": 1, "attachments": [{"url": "https://elsewhere.example/x"}]})
        await client.until(bad["email_id"], "failed")

    assert email["attachments"][0]["size"] == len(PDF)
    after = {name: count("holdfast_download_bytes_total", host=name) for name in before}
    assert after == {"account": before["account"], "cdn": before["cdn"] + len(PDF)}
    assert count("holdfast_download_seconds_count", host="other") == refused + 1


async def test_connections_in_use_and_waiting_statements_are_counted(database_url: str) -> None:
    engine = create_engine(database_url, pool_size=1, seconds=30)

    def now() -> tuple[float, float]:
        return count("holdfast_database_pool_in_use"), count("holdfast_database_pool_waiting")

    async def ask() -> None:
        async with connect(engine):
            pass

    async def is_waiting() -> bool:
        return now() == (lent + 1, waiting + 1)

    lent, waiting = now()
    async with connect(engine):
        asking = asyncio.create_task(ask())
        assert await eventually(is_waiting)
    await asking
    await close_engine(engine)

    assert now() == (lent, waiting)
    assert count("holdfast_database_pool_size") == 1


def test_codes_are_a_closed_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each code of the guide has a label of its own; what is beyond all bounds has one together."""
    monkeypatch.setattr(metrics, "_codes", {""})  # later tests of this process count codes too
    codes = [advice.code for group in error_guide.GROUPS for advice in group.advices]

    guided = [code_label(code) for code in codes]
    labels = {code_label(f"code_{number}") for number in range(1000)}

    assert guided == codes
    assert len(labels | set(guided)) <= MAX_CODES + 1
    assert "other" in labels
    assert code_label(None) == ""


async def test_a_retried_email_is_not_waiting_for_its_first_attempt(
    client: Server, database: asyncpg.Connection
) -> None:
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status, received_at, attempt_number, due_at)"
        " VALUES ('1', 'queued', now() - interval '3 d', 1, now() + interval '1 h'),"
        " ('2', 'completed', now() - interval '3 d', 0, now())"
    )
    again = await scraped(client)
    await database.execute("UPDATE incoming_emails SET attempt_number = 0")
    new = await scraped(client)

    [oldest] = values(again["holdfast_oldest_waiting_seconds"]).values()
    assert oldest > 200_000
    assert values(again["holdfast_oldest_not_begun_seconds"]) == {(): 0}
    [not_begun] = values(new["holdfast_oldest_not_begun_seconds"]).values()
    assert not_begun > 200_000


# ── the documents


def names_in(expression: str) -> set[str]:
    found = re.findall(r"\b(?:holdfast|process)_\w+", expression)
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


@pytest.fixture
def exposed() -> set[str]:
    return set(parsed(exposition(NOTHING, {})))


def test_the_documentation_names_exactly_the_metrics(exposed: set[str]) -> None:
    rows = re.findall(
        r"^\| `(holdfast_\w+)` \| (.*?) \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE
    )

    assert sorted(name for name, _ in rows) == sorted(
        name for name in exposed if name.startswith("holdfast_")
    )
    labels = {name: set(re.findall(r"`(\w+)`", cell)) for name, cell in rows}
    for family in REGISTRY.collect():
        for sample in family.samples:
            name = f"{family.name}_total" if family.type == "counter" else family.name
            if name in labels:
                assert set(sample.labels) - {"le"} == labels[name], name


def test_every_alert_rule_uses_existing_metrics(exposed: set[str]) -> None:
    document = yaml.safe_load((ROOT / "docs/alert-rules.yml").read_text())
    rules = [rule for group in document["groups"] for rule in group["rules"]]

    assert {"HoldfastEmailWaits", "HoldfastNoWorker", "HoldfastQuarantine"} <= {
        rule["alert"] for rule in rules
    }
    for rule in rules:
        assert names_in(rule["expr"]), rule
        assert names_in(rule["expr"]) <= exposed
        assert rule["annotations"].keys() == {"summary", "description"}


def panels() -> Iterator[dict[str, Any]]:
    for panel in json.loads((ROOT / "docs/grafana.json").read_text())["panels"]:
        if panel["type"] != "row":
            yield panel


def test_every_panel_uses_existing_metrics_and_a_unit(exposed: set[str]) -> None:
    for panel in panels():
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert names_in(target["expr"]), panel["title"]
            assert names_in(target["expr"]) <= exposed
            assert target["expr"].count("(") == target["expr"].count(")")


def test_the_dashboard_asks_for_its_data_source() -> None:
    dashboard = json.loads((ROOT / "docs/grafana.json").read_text())

    assert dashboard["schemaVersion"] >= 39
    assert "id" not in dashboard, "Grafana gives one"
    assert dashboard["templating"]["list"][0]["type"] == "datasource"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


async def test_pending_and_failed_syncs_are_shown(client: Server, database: asyncpg.Connection) -> None:
    await database.execute(
        "INSERT INTO incoming_emails (zendesk_ticket_id, processing_status, sync_status, sync_begun_at)"
        " SELECT '1', status, sync, now() - interval '90 s' FROM (VALUES ('completed', 'pending'),"
        " ('failed', 'pending'), ('queued', 'pending'), ('completed', 'failed'), ('completed', 'synced'))"
        " AS every(status, sync)"
    )

    families = await scraped(client)

    counts = {sample.labels["status"]: sample.value for sample in families["holdfast_syncs"].samples}
    assert counts == {"pending": 2, "failed": 1}
    (oldest,) = families["holdfast_oldest_sync_seconds"].samples
    assert 90 <= oldest.value < 150
