"""All calls of pymilvus's private parts, a deadline for every call, and the translation of its exceptions."""

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import grpc
from pymilvus import AsyncMilvusClient, MilvusException
from pymilvus.client.utils import check_status
from pymilvus.decorators import IGNORE_RETRY_CODES, retry_on_rpc_failure
from pymilvus.grpc_gen import milvus_pb2, schema_pb2

from app.core.ports import UnverifiedCollection
from app.core.stores.milvus.lite_protocol import (
    DISK_FULL,
    FINISH_VERIFICATION,
    QUOTA_EXCEEDED,
    SERVICE,
    UNVERIFIED,
    UNVERIFIED_COLLECTIONS,
    WRITES_REFUSED,
)
from app.utils.errors import CollectionMissing, CollectionUnverified, VectorIndexFull, VectorIndexUnavailable

log = logging.getLogger(__name__)

T = TypeVar("T")
Attempt = Callable[..., Awaitable[Any]]

# Codes of Milvus 2.3 and later (pkg/util/merr in its source), and an older code that is still sent.
_COLLECTION_NOT_FOUND, _LEGACY_COLLECTION_NOT_FOUND = 100, 4
_NOT_LOADED: Final = (101, 103)
_FINAL: Final = (DISK_FULL, WRITES_REFUSED, UNVERIFIED)
"""Codes for which a retry is useless."""

RECONNECT: Final = {
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1000,
    "grpc.use_local_subchannel_pool": 1,
}
"""Options of the gRPC channels. By default gRPC's pause between attempts to reconnect grows to two minutes.

Channels to the same address also share connections and that pause by default. pymilvus reconnects with a new channel,
which would then fail without an attempt.
"""


def mute_pymilvus() -> None:
    """Turns off pymilvus's log: an ERROR with a stack trace for every failure. ``with_deadline`` logs failures."""
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


async def send_write(
    client: AsyncMilvusClient, request: milvus_pb2.InsertRequest, timeout: float, *, fresh: bool
) -> int:
    """Sends a packed request with pymilvus's retries and check of the status. Returns the write's timestamp.

    The timestamp is 0 on Milvus Lite, which has none. pymilvus's own method does not return it, and packs the request
    row by row on the event loop, 40 microseconds per row. ``fresh``: the keys are new, so they are inserted, which
    spares Milvus a delete of each key. A retry is an upsert, because the insert may have succeeded without an answer.
    """
    return int(await _send(client, _insert if fresh else _upsert, _upsert_with_retries, request, timeout))


async def search(
    client: AsyncMilvusClient, request: milvus_pb2.SearchRequest, timeout: float
) -> schema_pb2.SearchResultData:
    """Sends a packed request with pymilvus's retries and check of the status.

    ``AsyncMilvusClient.search`` needs 0.4 ms more for packing and unpacking, a third of a search's time on the event
    loop.
    """
    return await _send(client, _search, _search_with_retries, request, timeout)


async def query(client: AsyncMilvusClient, request: milvus_pb2.QueryRequest, timeout: float) -> milvus_pb2.QueryResults:
    """Sends a packed request with pymilvus's retries and check of the status.

    ``AsyncMilvusClient.query`` makes a dictionary for each row and a list of each vector.
    """
    return await _send(client, _query, _query_with_retries, request, timeout)


async def _send(client: AsyncMilvusClient, first: Attempt, with_retries: Attempt, request: Any, timeout: float) -> Any:
    """The result of ``first`` or, if it fails and a retry is useful, of ``with_retries`` in the remaining time.

    pymilvus's retries run each attempt in a task of its own, which the first attempt does not need. If the deadline has
    passed, because the process was paused, nothing more is sent: recovery may have undone the write already.
    """
    metadata = client._generate_call_context().to_grpc_metadata()
    handler = await client._get_connection()
    end = time.monotonic() + timeout
    try:
        return await first(handler, request, timeout=timeout, metadata=metadata)
    except (grpc.RpcError, MilvusException) as error:
        left = end - time.monotonic()
        final = error.code() in IGNORE_RETRY_CODES if isinstance(error, grpc.RpcError) else error.code in _FINAL
        if left <= 0 or final:
            raise
    return await with_retries(handler, request, timeout=left, metadata=metadata)


async def _insert(handler: Any, request: milvus_pb2.InsertRequest, *, timeout: float, metadata: Any) -> int:
    response = await handler._async_stub.Insert(request, timeout=timeout, metadata=metadata)
    check_status(response.status)
    return int(response.timestamp)


async def _upsert(handler: Any, request: milvus_pb2.InsertRequest, *, timeout: float, metadata: Any) -> int:
    upsert = milvus_pb2.UpsertRequest(
        collection_name=request.collection_name, num_rows=request.num_rows, fields_data=request.fields_data
    )
    response = await handler._async_stub.Upsert(upsert, timeout=timeout, metadata=metadata)
    check_status(response.status)
    return int(response.timestamp)


async def _search(handler: Any, request: milvus_pb2.SearchRequest, *, timeout: float, metadata: Any) -> Any:
    response = await handler._async_stub.Search(request, timeout=timeout, metadata=metadata)
    check_status(response.status)
    return response.results


async def _query(handler: Any, request: milvus_pb2.QueryRequest, *, timeout: float, metadata: Any) -> Any:
    response = await handler._async_stub.Query(request, timeout=timeout, metadata=metadata)
    check_status(response.status)
    return response


async def loaded_collections(client: AsyncMilvusClient, timeout: float) -> set[str]:
    """The names of the collections that are completely in memory. pymilvus has no call for it.

    Milvus Lite returns all collections, and 0 as the share of one that is not loaded.
    """
    metadata = client._generate_call_context().to_grpc_metadata()
    handler = await client._get_connection()
    request = milvus_pb2.ShowCollectionsRequest(type=milvus_pb2.ShowType.InMemory)
    response = await handler._async_stub.ShowCollections(request, timeout=timeout, metadata=metadata)
    check_status(response.status)
    shares = zip(response.collection_names, response.inMemory_percentages, strict=True)
    return {name for name, share in shares if share == 100}


async def unverified_collections(client: AsyncMilvusClient, claim: float, timeout: float) -> list[UnverifiedCollection]:
    """Asks the Milvus Lite process; see ``VectorIndex.unverified_collections``."""
    rows = await _call_lite(client, UNVERIFIED_COLLECTIONS, {"claim": claim}, timeout)
    return [UnverifiedCollection(*row) for row in rows]


async def finish_verification(
    client: AsyncMilvusClient, collection: UnverifiedCollection, complete: bool, timeout: float
) -> None:
    """Tells the Milvus Lite process; see ``VectorIndex.finish_verification``."""
    request = {"collection": collection.name, "failures": collection.failures, "complete": complete}
    await _call_lite(client, FINISH_VERIFICATION, request, timeout)


async def _call_lite(client: AsyncMilvusClient, method: str, request: dict[str, Any], timeout: float) -> Any:
    channel = (await client._get_connection())._async_channel
    call = channel.unary_unary(f"/{SERVICE}/{method}")
    return json.loads(await call(json.dumps(request).encode(), timeout=timeout))


_upsert_with_retries: Attempt = retry_on_rpc_failure()(_upsert)
_search_with_retries: Attempt = retry_on_rpc_failure()(_search)
_query_with_retries: Attempt = retry_on_rpc_failure()(_query)


async def with_deadline(seconds: float, request: Callable[[], Awaitable[T]]) -> T:
    """Awaits a request of pymilvus for at most ``seconds`` and translates its exceptions.

    pymilvus's own timeout does not cover its attempts to reconnect. And pymilvus uses ``asyncio.wait_for``, which on
    Python 3.11 loses a cancellation that comes together with the result or the error
    (https://github.com/python/cpython/issues/86296).
    """
    task = asyncio.current_task()
    assert task is not None
    cancellations = task.cancelling()
    try:
        async with asyncio.timeout(seconds):
            answer = await request()
    except (Exception, asyncio.CancelledError) as error:
        if task.cancelling() > cancellations:
            raise asyncio.CancelledError from error
        # grpc.aio raises CancelledError also when a connection is closed during a call.
        if isinstance(error, MilvusException | grpc.RpcError | TimeoutError | asyncio.CancelledError):
            raise _translate(error) from error
        raise
    if task.cancelling() > cancellations:
        raise asyncio.CancelledError
    return answer


def _translate(error: BaseException) -> Exception:
    """The only place that translates pymilvus's exceptions. Milvus's message is logged, without data it may quote."""
    if isinstance(error, MilvusException) and is_missing(error):
        return CollectionMissing("Milvus has no such collection.")
    code = error.code() if isinstance(error, grpc.RpcError) else getattr(error, "code", None)
    message = re.sub(r"\[[^\]]*\]?", "[...]", str(getattr(error, "message", "")))
    log.warning("Milvus call failed: %s, code %s, %.200s", type(error).__name__, code, message)
    if code == DISK_FULL or (code == QUOTA_EXCEEDED and "disk" in message):
        return VectorIndexFull("The vector index has no space left on its disk: nothing was stored.")
    if code == UNVERIFIED:
        return CollectionUnverified(
            "The bot's vectors are being compared with its texts after a failure. Try again in a moment."
        )
    return VectorIndexUnavailable("The vector index does not answer.")


def is_missing(error: MilvusException) -> bool:
    return (
        error.code == _COLLECTION_NOT_FOUND
        or error.compatible_code == _LEGACY_COLLECTION_NOT_FOUND
        or "can't find collection" in str(error.message)
    )


def is_not_loaded(error: MilvusException) -> bool:
    """Whether the collection exists but is not completely in the server's memory."""
    return error.code in _NOT_LOADED
