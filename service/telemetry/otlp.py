"""Spans to a collector, through OpenTelemetry's SDK; imported only where traces are on."""

import time
from collections.abc import Mapping
from hashlib import sha256

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from service.telemetry.exporters import Traces


class ExportedTraces(Traces):
    """Hands spans to a thread that sends them; if it lags behind, the oldest are dropped.

    Headers, certificates, sampling and the service's name come from OpenTelemetry's own variables.
    """

    is_on = True

    def __init__(self, endpoint: str, version: str) -> None:
        self._ids = _Ids()
        self._exporter = OTLPSpanExporter(endpoint=endpoint)
        ours = Resource.create({"service.name": "holdfast", "service.version": version})
        self._provider = TracerProvider(
            resource=ours.merge(OTELResourceDetector().detect()),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("holdfast")

    def record(  # noqa: PLR0913 the parts of a span
        self,
        invocation: str,
        name: str,
        seconds: float,
        about: Mapping[str, str | int],
        *,
        at: str = "",
        under: str = "",
        error: str | None = None,
    ) -> None:
        if not invocation:
            return
        ended = time.time_ns()
        trace_id = _hash(invocation, 16)
        self._ids.trace_id, self._ids.span_id = trace_id, _span_id(invocation, at) if at else 0
        span = self._tracer.start_span(
            name,
            self._parent(trace_id, _span_id(invocation, under)) if under else Context(),
            kind=SpanKind.INTERNAL if under else SpanKind.SERVER,
            attributes={"invocation": invocation, **about},
            start_time=ended - int(seconds * 1e9),
        )
        if error is not None:
            span.set_attribute("error.type", error)
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended)

    def close(self) -> None:
        """Send unsent spans; blocks."""
        self._provider.shutdown()

    def cancel(self) -> None:
        """Cancel all further sends."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _parent(self, trace_id: int, span_id: int) -> Context:
        # The process that recorded the parent span got the same decision from its sampler.
        decision = self._provider.sampler.should_sample(Context(), trace_id, "webhook").decision
        sampled = decision is Decision.RECORD_AND_SAMPLE
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        parent = SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)
        return set_span_in_context(NonRecordingSpan(parent), Context())


class _Ids(IdGenerator):
    """Gives the prepared ids, or a random id where none was prepared."""

    def __init__(self) -> None:
        self.trace_id = self.span_id = 0
        self._random = RandomIdGenerator()

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id or self._random.generate_span_id()


def _span_id(invocation: str, name: str) -> int:
    return _hash(f"{name}\n{invocation}", 8)


def _hash(text: str, size: int) -> int:
    return int.from_bytes(sha256(text.encode(errors="replace")).digest()[:size]) or 1  # 0 is not a valid id
