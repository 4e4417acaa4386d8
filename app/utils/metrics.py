"""What Prometheus is told. No label says whose request it was: accounts, bots and texts stay out of here.

Where PROMETHEUS_MULTIPROC_DIR is set before this module is imported, as ``app.serve`` does for WEB_CONCURRENCY above 1,
the library keeps all values in files there, and any process can answer for all of them.
"""

import os
from functools import cache
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

FOLDER: Final = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)

registry = CollectorRegistry()

REQUESTS = Counter(
    "chat_memory_requests", "Requests that were answered.", ["method", "route", "status"], registry=registry
)
REQUEST_SECONDS = Histogram(
    "chat_memory_request_seconds", "From head to answer.", ["route"], buckets=SECONDS, registry=registry
)
IN_FLIGHT = Gauge("chat_memory_requests_in_flight", "Requests at work.", multiprocess_mode="livesum", registry=registry)
STAGE_SECONDS = Histogram(
    "chat_memory_stage_seconds",
    "One stage of a request; stages overlap.",
    ["stage"],
    buckets=SECONDS,
    registry=registry,
)
QUEUE_TEXTS = Gauge(
    "chat_memory_embed_queue_texts", "Texts that wait.", ["lane"], multiprocess_mode="livesum", registry=registry
)
QUEUE_SECONDS = Histogram(
    "chat_memory_embed_wait_seconds", "How long texts waited.", ["lane"], buckets=SECONDS, registry=registry
)
BATCH_TEXTS = Histogram(
    "chat_memory_embed_batch_texts", "Texts of a batch.", ["lane"], buckets=SIZES, registry=registry
)
CACHED = Counter(
    "chat_memory_embed_cache", "Texts that were looked for in the cache.", ["kind", "outcome"], registry=registry
)
POOL = Gauge(
    "chat_memory_postgres_connections",
    "Connections, by state: used, idle.",
    ["state"],
    multiprocess_mode="livesum",
    registry=registry,
)
POOL_MOST = Gauge(
    "chat_memory_postgres_connections_max", "Most there may be.", multiprocess_mode="livesum", registry=registry
)
SAGAS = Gauge("chat_memory_sagas_in_flight", "Rows of sagas.", multiprocess_mode="livemostrecent", registry=registry)
SAGAS_EXPIRED = Gauge(
    "chat_memory_sagas_expired", "Those past their lease.", multiprocess_mode="livemostrecent", registry=registry
)
GARBAGE = Gauge(
    "chat_memory_vector_gc_backlog", "Rows of vector_gc.", multiprocess_mode="livemostrecent", registry=registry
)
GARBAGE_OVERDUE = Gauge(
    "chat_memory_vector_gc_overdue_seconds",
    "For how long the oldest row of vector_gc has been due.",
    multiprocess_mode="livemostrecent",
    registry=registry,
)
STALE_KEYS = Counter(
    "chat_memory_stale_keys",
    "Keys from Milvus that PostgreSQL did not confirm, in searches without filter.",
    registry=registry,
)
FOREIGN_ROWS = Counter(
    "chat_memory_foreign_rows",
    "Rows from PostgreSQL that were kept back because they are another account's or bot's.",
    registry=registry,
)
LOOP_LAG = Histogram(
    "chat_memory_event_loop_lag_seconds", "How late the event loop wakes.", buckets=SECONDS, registry=registry
)
DRAINING = Gauge(
    "chat_memory_draining", "Processes that were told to stop.", multiprocess_mode="livesum", registry=registry
)


@cache
def stage(name: str) -> Histogram:
    """The histogram of one stage: looking up a label costs more than observing."""
    return STAGE_SECONDS.labels(name)


def exposition() -> bytes:
    """All metrics of this process, or of all processes that share FOLDER, as Prometheus reads them."""
    if FOLDER is None:
        return generate_latest(registry)
    _forget_dead(FOLDER)
    together = CollectorRegistry()
    MultiProcessCollector(together, path=FOLDER)  # type: ignore[no-untyped-call]
    return generate_latest(together)


def _forget_dead(folder: str) -> None:
    """A process that was killed leaves the files of its gauges."""
    for name in os.listdir(folder):
        kind, _, pid = name.removesuffix(".db").rpartition("_")
        if kind.startswith("gauge_live") and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            mark_process_dead(int(pid), path=folder)  # type: ignore[no-untyped-call]
