"""How pymilvus is called: under a deadline of ours, its exceptions turned into ours, its private parts in one place."""

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

# Codes of Milvus 2.3 and later (pkg/util/merr in its source), and of its predecessor where still sent.
_COLLECTION_NOT_FOUND, _LEGACY_COLLECTION_NOT_FOUND = 100, 4
_NOT_LOADED: Final = (101, 103)
_FINAL: Final = (DISK_FULL, WRITES_REFUSED, UNVERIFIED)
"""Codes of answers that would be the same again."""

RECONNECT: Final = {
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1000,
    "grpc.use_local_subchannel_pool": 1,
}
"""gRPC's own pause between attempts to reconnect grows to two minutes: long after Milvus is back.

And its channels to one address share their connections, the pause included: a new channel, which is how pymilvus
reconnects, would be refused without an attempt.
"""


def mute_pymilvus() -> None:
    """pymilvus logs every failure at ERROR, with a stack trace; ``with_deadline`` says enough."""
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


async def send_write(
    client: AsyncMilvusClient, request: milvus_pb2.InsertRequest, timeout: float, *, fresh: bool
) -> int:
    """Sends a request that is packed already, as pymilvus sends its own: with its repetitions and check.

    Returns the write's timestamp, which pymilvus keeps to itself; 0 on Milvus Lite, which has none. It would pack the
    request row by row, 40 microseconds each, on the event loop. Keys that are ``fresh`` are inserted, and upserted
    where that failed and yet may have happened: an upsert deletes each key first.
    """
    return int(await _sent(client, _insert if fresh else _upsert, _upsert_again, request, timeout))


async def search(
    client: AsyncMilvusClient, request: milvus_pb2.SearchRequest, timeout: float
) -> schema_pb2.SearchResultData:
    """Sends a request that is packed already, as pymilvus sends its own: with its repetitions and check.

    ``AsyncMilvusClient.search`` packs and unpacks for four tenths of a millisecond more, a third of all that a search
    takes on the event loop.
    """
    return await _sent(client, _search, _search_again, request, timeout)


async def _sent(client: AsyncMilvusClient, once: Attempt, again: Attempt, request: Any, timeout: float) -> Any:
    """What ``once`` returns; where it fails, and pymilvus would repeat it, ``again`` in the time that is left.

    What repeats runs each attempt as a task of its own, which the first can do without. A process that was paused while
    it waited for an answer sends nothing more: recovery may have collected its work.
    """
    metadata = client._generate_call_context().to_grpc_metadata()
    handler = await client._get_connection()
    end = time.monotonic() + timeout
    try:
        return await once(handler, request, timeout=timeout, metadata=metadata)
    except (grpc.RpcError, MilvusException) as error:
        left = end - time.monotonic()
        final = error.code() in IGNORE_RETRY_CODES if isinstance(error, grpc.RpcError) else error.code in _FINAL
        if left <= 0 or final:
            raise
    return await again(handler, request, timeout=left, metadata=metadata)


async def _insert(handler: Any, request: milvus_pb2.InsertRequest, *, timeout: float, metadata: Any) -> int:
    response = await handler._async_stub.Insert(request, timeout=timeout, metadata=metadata)
    check_status(response.status)
    return int(response.timestamp)


async def _upsert(handler: Any, request: milvus_pb2.InsertRequest, *, timeout: float, metadata: Any) -> int:
    same = milvus_pb2.UpsertRequest(
        collection_name=request.collection_name, num_rows=request.num_rows, fields_data=request.fields_data
    )
    response = await handler._async_stub.Upsert(same, timeout=timeout, metadata=metadata)
    check_status(response.status)
    return int(response.timestamp)


async def _search(handler: Any, request: milvus_pb2.SearchRequest, *, timeout: float, metadata: Any) -> Any:
    response = await handler._async_stub.Search(request, timeout=timeout, metadata=metadata)
    check_status(response.status)
    return response.results


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


_upsert_again: Attempt = retry_on_rpc_failure()(_upsert)
_search_again: Attempt = retry_on_rpc_failure()(_search)


async def with_deadline(seconds: float, request: Callable[[], Awaitable[T]]) -> T:
    """Awaits a request of pymilvus under a deadline of ours and turns its exceptions into ours.

    pymilvus's own deadline does not cover its attempts to reconnect. And it waits by ``asyncio.wait_for``, which on
    Python 3.11 loses a cancellation that comes together with the answer (https://github.com/python/cpython/issues/86296).
    """
    task = asyncio.current_task()
    assert task is not None
    cancellations = task.cancelling()
    try:
        async with asyncio.timeout(seconds):
            answer = await request()
    except (MilvusException, grpc.RpcError, TimeoutError) as error:
        raise _translate(error) from error
    except asyncio.CancelledError as error:
        # grpc.aio also raises this when a connection is closed under a call, which is nobody's cancellation.
        if task.cancelling() > cancellations:
            raise
        raise _translate(error) from error
    if task.cancelling() > cancellations:
        raise asyncio.CancelledError
    return answer


def _translate(error: BaseException) -> Exception:
    """The one map of the driver's exceptions to ours. Milvus's message is for the log, less the data it may echo."""
    if isinstance(error, MilvusException) and is_missing(error):
        return CollectionMissing("Milvus has no such collection")
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
    """Whether the collection exists but is not, or not wholly, in the server's memory."""
    return error.code in _NOT_LOADED
