"""One trace from the webhook to the object, received by a real collector; without one, nothing is sent."""

import asyncio
import subprocess
import sys
from hashlib import sha256

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from service.config.settings import Settings
from service.errors import SettingsError
from service.local.zendesk.stand_in import Fault, Zendesk
from service.resources import Resources, check_usable, open_resources
from service.zendesk.signature import INVOCATION_ID
from tests.conftest import ROOT, serving, working
from tests.support.files import PDF
from tests.support.otlp import Collector, collecting

NOBODYS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def to(collector: Collector, settings: Settings) -> Settings:
    return settings.model_copy(update={"otel_exporter_otlp_endpoint": collector.url})


def about(span: Span) -> dict[str, str | int]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


async def test_one_trace_goes_from_the_webhook_to_the_object(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with collecting() as collector:
        own = to(collector, settings)
        async with serving(own, zendesk) as client:
            receipt = await client.send(
                zendesk.payload(attachments=[zendesk.add_file("a.pdf", PDF)]),
                headers={INVOCATION_ID: "invocation-1", "traceparent": NOBODYS},
            )
            await res.redis.flushall()  # the trace does not need Redis
            async with working(own):
                await client.until(receipt["email_id"], "completed")

    parents = {span.span_id: span.name for span in collector.spans}
    assert {(span.name, parents.get(span.parent_span_id)) for span in collector.spans} == {
        ("webhook", None),
        ("intake", "webhook"),
        ("attempt", "webhook"),
        ("download", "attempt"),
        ("store", "attempt"),
    }
    assert {span.trace_id for span in collector.spans} == {sha256(b"invocation-1").digest()[:16]}
    assert len(parents) == len(collector.spans) == 5
    assert collector.services == {"holdfast"}
    (webhook,), (download,) = collector.named("webhook"), collector.named("download")
    assert webhook.kind == Span.SPAN_KIND_SERVER
    assert not webhook.parent_span_id
    assert about(webhook) == {
        "invocation": "invocation-1",
        "outcome": "accepted",
        "email_id": receipt["email_id"],
    }
    assert about(download) == {"invocation": "invocation-1", "host": "account", "bytes": len(PDF)}
    for span in collector.spans:
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        assert "127.0.0.1" not in str(span), "an address"


async def test_each_attempt_is_a_span_with_its_error(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    file = zendesk.add_file("a.pdf", PDF, faults=[Fault(status=500)])
    async with collecting() as collector:
        own = to(collector, settings)
        async with serving(own, zendesk) as client, working(own):
            receipt = await client.send(zendesk.payload(attachments=[file]))
            await client.until(receipt["email_id"], "completed")

    attempts = {about(span)["attempt"]: span for span in collector.named("attempt")}
    assert [about(attempts[number])["outcome"] for number in (1, 2)] == ["released", "completed"]
    assert [attempts[number].status.code for number in (1, 2)] == [
        Status.STATUS_CODE_ERROR,
        Status.STATUS_CODE_UNSET,
    ]
    assert about(attempts[1])["error.type"] == "server_error"
    under = {span.parent_span_id for span in collector.named("download")}
    assert under == {span.span_id for span in attempts.values()}


async def test_a_repeated_request_has_the_same_trace(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    payload, headers = zendesk.payload(), {INVOCATION_ID: "again"}
    async with collecting() as collector, serving(to(collector, settings), zendesk) as client:
        first = await client.send(payload, headers=headers)
        second = await client.send(payload, headers=headers)

    assert (first["status"], second["status"]) == ("accepted", "duplicate")
    webhooks = collector.named("webhook")
    assert [about(span)["outcome"] for span in webhooks] == ["accepted", "duplicate"]
    assert len({span.span_id for span in webhooks}) == 2
    assert len({span.trace_id for span in collector.spans}) == 1


async def test_a_request_without_an_invocation_is_named_by_its_key(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with collecting() as collector:
        own = to(collector, settings)
        async with serving(own, zendesk) as client, working(own):
            receipt = await client.send(zendesk.payload(webhook_id="its-key"), headers={INVOCATION_ID: None})
            await client.until(receipt["email_id"], "completed")

    assert {span.name for span in collector.spans} == {"webhook", "intake", "attempt"}
    assert {span.trace_id for span in collector.spans} == {sha256(b"its-key").digest()[:16]}


async def test_an_unsigned_request_leaves_no_trace(
    settings: Settings, zendesk: Zendesk, res: Resources
) -> None:
    async with collecting() as collector, serving(to(collector, settings), zendesk) as client:
        answer = await zendesk.send(client.webhook, zendesk.payload(), secret="d3Jvbmc=")

    assert answer.status == 401
    assert not collector.spans


async def test_a_sampler_decides_the_same_in_web_and_worker(
    settings: Settings, zendesk: Zendesk, res: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    async with collecting() as collector:
        own = to(collector, settings)
        async with serving(own, zendesk) as client, working(own):
            for number in range(20):
                receipt = await client.send(zendesk.payload(), headers={INVOCATION_ID: f"sampled-{number}"})
                await client.until(receipt["email_id"], "completed")

    webhooks = {span.trace_id for span in collector.named("webhook")}
    assert 0 < len(webhooks) < 20
    assert {span.trace_id for span in collector.named("attempt")} == webhooks


@pytest.mark.parametrize("hangs", [True, False], ids=["that hangs", "that is away"])
async def test_a_hanging_collector_delays_neither_attempts_nor_the_shutdown(
    hangs: bool,  # noqa: FBT001 a parameter of the test
    settings: Settings,
    zendesk: Zendesk,
    res: Resources,
) -> None:
    async with collecting() as collector:
        collector.hangs = True
        own = to(collector, settings)
        if not hangs:
            own = own.model_copy(update={"otel_exporter_otlp_endpoint": "http://127.0.0.1:9"})
        async with asyncio.timeout(60), serving(own, zendesk) as client:
            assert (await client.send(zendesk.payload()))["status"] == "accepted"
            began = asyncio.get_running_loop().time()
        took = asyncio.get_running_loop().time() - began

    assert took < 9  # the exporter alone would try for ten seconds, and wait for thirty


def test_disabled_exporters_are_not_imported() -> None:
    code = (
        "import sys, service.worker.settings, service.web.app\n"
        "assert not {name for name in sys.modules if name.startswith(('opentelemetry', 'sentry_sdk'))}"
    )

    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize(
    ("setting", "value", "module", "extra"),
    [
        ("otel_exporter_otlp_endpoint", "http://collector:4318", "opentelemetry", "otel"),
        ("sentry_dsn", "https://key@host/1", "sentry_sdk", "sentry"),
    ],
)
def test_a_missing_extra_is_named_in_one_line(
    setting: str, value: str, module: str, extra: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, f"{module}.sdk", None)

    with pytest.raises(SettingsError, match=rf"^{setting.upper()}: .*pip install 'holdfast\[{extra}\]'"):
        check_usable(settings.model_copy(update={setting: value}))


async def test_without_a_collector_nothing_is_sent(settings: Settings) -> None:
    async with open_resources(settings) as res:
        res.traces.record("invocation", "webhook", 0.1, {})

    assert settings.traces_url is None
