"""Spans for OpenTelemetry, one a request and one for each of its stages. Nothing of it is imported unless it is wanted.

Spans carry names, routes, statuses and durations; never what a user has sent.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from app.utils.errors import StartupError

_tracer: Any = None
"""None: traces are off."""
_provider: Any = None


def start(endpoint: str) -> None:
    """Sends spans to ``endpoint`` by OTLP over HTTP; OpenTelemetry's other variables count too. Raises StartupError."""
    global _tracer, _provider
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as exc:
        raise StartupError("OTEL_EXPORTER_OTLP_ENDPOINT needs requirements/tracing.txt.") from exc
    _provider = TracerProvider(resource=Resource.create({"service.name": "chat-memory"}))
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    _provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = _provider.get_tracer("chat-memory")


def stop() -> None:
    """Sends what is left. Waits for the collector."""
    global _tracer, _provider
    if _provider is not None:
        _provider.shutdown()
    _tracer = _provider = None


def running() -> bool:
    return _tracer is not None


@contextmanager
def server_span(name: str, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[Any]:
    """A request's span, under the caller's if the headers name one. Only while ``running()``."""
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {
        key.decode("latin-1"): value.decode("latin-1")
        for key, value in headers
        if key in (b"traceparent", b"tracestate")
    }
    context = TraceContextTextMapPropagator().extract(carrier)
    with _tracer.start_as_current_span(
        name, context=context, kind=SpanKind.SERVER, record_exception=False, set_status_on_exception=False
    ) as span:
        yield span


@contextmanager
def stage_span(stage: str) -> Iterator[None]:
    """Under the span that is current. Only while ``running()``."""
    with _tracer.start_as_current_span(stage, record_exception=False, set_status_on_exception=False):
        yield
