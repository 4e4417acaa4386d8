"""OpenTelemetry spans: one for each request and one for each of its stages. The library is imported only if needed.

Spans have names, routes, statuses and durations, but no user data.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from app.utils.errors import StartupError

_tracer: Any = None
"""None if tracing is off."""
_provider: Any = None


def start(endpoint: str) -> None:
    """Sends spans to ``endpoint`` by OTLP over HTTP. OpenTelemetry's other environment variables apply as well.

    Raises StartupError if the library is not installed.
    """
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
    """Sends the remaining spans and waits for the collector."""
    global _tracer, _provider
    if _provider is not None:
        _provider.shutdown()
    _tracer = _provider = None


def running() -> bool:
    return _tracer is not None


@contextmanager
def server_span(name: str, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[Any]:
    """The span of a request; a child of the client's span if the headers name one. Only while ``running()``."""
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
    """A child of the current span. Only while ``running()``."""
    with _tracer.start_as_current_span(stage, record_exception=False, set_status_on_exception=False):
        yield
