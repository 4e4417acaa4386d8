"""Prometheus metrics. Labels contain no account, bot or text.

If PROMETHEUS_MULTIPROC_DIR is set before this module is imported, as ``app.serve`` does for WEB_CONCURRENCY above 1,
prometheus_client keeps all values in files there, and each process can report those of all processes.
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

REQUESTS = Counter("chat_memory_requests", "Finished requests.", ["method", "route", "status"], registry=registry)
REQUEST_SECONDS = Histogram(
    "chat_memory_request_seconds",
    "Time from the head of a request to the end of its response.",
    ["route"],
    buckets=SECONDS,
    registry=registry,
)
IN_FLIGHT = Gauge(
    "chat_memory_requests_in_flight", "Requests in progress.", multiprocess_mode="livesum", registry=registry
)
STAGE_SECONDS = Histogram(
    "chat_memory_stage_seconds",
    "Time of one stage of a request; stages can overlap.",
    ["stage"],
    buckets=SECONDS,
    registry=registry,
)
QUEUE_TEXTS = Gauge(
    "chat_memory_embed_queue_texts",
    "Texts that wait to be embedded.",
    ["lane"],
    multiprocess_mode="livesum",
    registry=registry,
)
QUEUE_SECONDS = Histogram(
    "chat_memory_embed_wait_seconds",
    "How long texts waited to be embedded.",
    ["lane"],
    buckets=SECONDS,
    registry=registry,
)
BATCH_TEXTS = Histogram(
    "chat_memory_embed_batch_texts",
    "Number of texts in an embedding batch.",
    ["lane"],
    buckets=SIZES,
    registry=registry,
)
CACHED = Counter(
    "chat_memory_embed_cache", "Lookups of texts in the embedding cache.", ["kind", "outcome"], registry=registry
)
POOL = Gauge(
    "chat_memory_postgres_connections",
    "PostgreSQL connections, by state: used or idle.",
    ["state"],
    multiprocess_mode="livesum",
    registry=registry,
)
POOL_MAX = Gauge(
    "chat_memory_postgres_connections_max",
    "Maximum number of PostgreSQL connections.",
    multiprocess_mode="livesum",
    registry=registry,
)
SAGAS = Gauge(
    "chat_memory_sagas_in_flight", "Rows in the table sagas.", multiprocess_mode="livemostrecent", registry=registry
)
SAGAS_EXPIRED = Gauge(
    "chat_memory_sagas_expired",
    "Rows in the table sagas whose lease has expired.",
    multiprocess_mode="livemostrecent",
    registry=registry,
)
GARBAGE = Gauge(
    "chat_memory_vector_gc_backlog",
    "Rows in the table vector_gc.",
    multiprocess_mode="livemostrecent",
    registry=registry,
)
GARBAGE_OVERDUE = Gauge(
    "chat_memory_vector_gc_overdue_seconds",
    "How long the oldest row in vector_gc has been due.",
    multiprocess_mode="livemostrecent",
    registry=registry,
)
STALE_KEYS = Counter(
    "chat_memory_stale_keys",
    "Chunk ids from Milvus that PostgreSQL did not confirm, in searches without a filter.",
    registry=registry,
)
FOREIGN_ROWS = Counter(
    "chat_memory_foreign_rows",
    "Rows from PostgreSQL that were dropped because they belong to another account or bot.",
    registry=registry,
)
COLD_STARTS = Counter(
    "chat_memory_cold_starts", "Collections that were loaded because a released bot was used.", registry=registry
)
LOAD_SECONDS = Histogram(
    "chat_memory_load_seconds",
    "How long Milvus took to load a collection, the wait for other servers included.",
    buckets=SECONDS,
    registry=registry,
)
RELEASES = Counter("chat_memory_releases", "Collections that this server has released.", registry=registry)
LOADED_COLLECTIONS = Gauge(
    "chat_memory_loaded_collections",
    "Collections of bots in Milvus's memory; only where MAX_LOADED_COLLECTIONS is set.",
    multiprocess_mode="livemostrecent",
    registry=registry,
)
LOOP_LAG = Histogram(
    "chat_memory_event_loop_lag_seconds", "Delay of the event loop.", buckets=SECONDS, registry=registry
)
DRAINING = Gauge(
    "chat_memory_draining",
    "Processes that are stopping and still serve.",
    multiprocess_mode="livesum",
    registry=registry,
)


# Cached, because a label lookup costs more than an observation.
@cache
def stage(name: str) -> Histogram:
    return STAGE_SECONDS.labels(name)


@cache
def requests(method: str, route: str, status: int) -> Counter:
    return REQUESTS.labels(method, route, str(status))


@cache
def request_seconds(route: str) -> Histogram:
    return REQUEST_SECONDS.labels(route)


def exposition() -> bytes:
    """The metrics of this process, or of all processes that share FOLDER, in Prometheus's text format."""
    if FOLDER is None:
        return generate_latest(registry)
    _remove_dead_processes(FOLDER)
    combined = CollectorRegistry()
    MultiProcessCollector(combined, path=FOLDER)  # type: ignore[no-untyped-call]
    return generate_latest(combined)


def _remove_dead_processes(folder: str) -> None:
    """A killed process leaves the files of its gauges behind."""
    for name in os.listdir(folder):
        kind, _, pid = name.removesuffix(".db").rpartition("_")
        if kind.startswith("gauge_live") and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            mark_process_dead(int(pid), path=folder)  # type: ignore[no-untyped-call]
