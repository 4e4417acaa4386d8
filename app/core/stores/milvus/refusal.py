"""Explains why Milvus refuses this server: one sentence for each configuration error that waiting does not solve."""

import asyncio
from collections.abc import Iterator
from typing import Any, Final
from uuid import uuid4

import grpc
from pymilvus import AsyncMilvusClient, MilvusException
from pymilvus.grpc_gen import milvus_pb2

from app.utils.uris import printable

_DATABASE_NOT_FOUND: Final = 800

PRIVILEGES: Final = (
    # privilege, call, request
    ("CreateCollection", "CreateCollection", milvus_pb2.CreateCollectionRequest),
    ("DropCollection", "DropCollection", milvus_pb2.DropCollectionRequest),
    ("ShowCollections", "ShowCollections", milvus_pb2.ShowCollectionsRequest),
    ("DescribeCollection", "DescribeCollection", milvus_pb2.DescribeCollectionRequest),
    ("CreateIndex", "CreateIndex", milvus_pb2.CreateIndexRequest),
    ("IndexDetail", "DescribeIndex", milvus_pb2.DescribeIndexRequest),
    ("Load", "LoadCollection", milvus_pb2.LoadCollectionRequest),
    ("Insert", "Insert", milvus_pb2.InsertRequest),
    ("Upsert", "Upsert", milvus_pb2.UpsertRequest),
    ("Delete", "Delete", milvus_pb2.DeleteRequest),
    ("Search", "Search", milvus_pb2.SearchRequest),
    ("Query", "Query", milvus_pb2.QueryRequest),
)
"""The calls that this server makes, and the privilege that each needs (documentation of Milvus 2.3 to 2.6)."""
RELEASE: Final = ("Release", "ReleaseCollection", milvus_pb2.ReleaseCollectionRequest)
"""Only a server with MAX_LOADED_COLLECTIONS makes this one."""


class MissingPrivileges(Exception):
    """The user lacks privileges; the message lists them."""


def has_credentials(uri: str, token: str) -> bool:
    return bool(token) or "@" in uri


async def check_privileges(client: AsyncMilvusClient, timeout: float, *, releases: bool = False) -> None:
    """Makes each call on a collection that does not exist, because Milvus checks the privilege first.

    ``releases``: RELEASE too. Raises MissingPrivileges with all that are missing.
    """
    privileges = (*PRIVILEGES, *([RELEASE] if releases else []))
    handler = await client._get_connection()
    metadata = client._generate_call_context().to_grpc_metadata()
    name = f"no_such_collection_{uuid4().hex}"

    async def is_missing(call: str, request: Any) -> bool:
        wanted = request() if request is milvus_pb2.ShowCollectionsRequest else request(collection_name=name)
        try:
            await getattr(handler._async_stub, call)(wanted, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.PERMISSION_DENIED:
                return True
            raise
        return False

    denied = await asyncio.gather(*(is_missing(call, request) for _, call, request in privileges))
    missing = [privilege for (privilege, _, _), no in zip(privileges, denied, strict=True) if no]
    if missing:
        raise MissingPrivileges(", ".join(missing))


def refusal(error: BaseException | None, uri: str, database: str) -> str | None:
    """The sentence for ``error``, or None if waiting may solve it. It never contains Milvus's own message."""
    for cause in _chain(error):
        if isinstance(cause, MissingPrivileges):
            return f"The Milvus user of MILVUS_TOKEN lacks privileges on all collections: grant its role {cause}."
        if isinstance(cause, MilvusException) and cause.code == _DATABASE_NOT_FOUND:
            named = f"no database {database}" if database else "not the database that MILVUS_URI names"
            return f"Milvus at {printable(uri)} has {named}: create it or change MILVUS_DB_NAME."
        if isinstance(cause, grpc.RpcError):
            if cause.code() is grpc.StatusCode.UNAUTHENTICATED:
                return f"Milvus at {printable(uri)} refused MILVUS_TOKEN: it should be user:password or an API key."
            if cause.code() is grpc.StatusCode.PERMISSION_DENIED:
                return f"Milvus at {printable(uri)} does not let the user of MILVUS_TOKEN list collections."
            if reason := _tls_reason(cause.details() or ""):
                return f"Milvus at {printable(uri)} cannot be trusted ({reason}): check MILVUS_TLS_CA and MILVUS_URI."
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()  # pymilvus raises exceptions whose cause is the exception itself.
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _tls_reason(details: str) -> str | None:
    """The reason, found by the texts of gRPC 1.85's core."""
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return "its certificate is not of that CA"
    if "Hostname Verification Check failed" in details or "not match" in details:
        return "its certificate is of another host"
    if "WRONG_VERSION_NUMBER" in details:
        return "it speaks no TLS"
    if "handshake failed" in details or "handshaker shutdown" in details:
        return "the TLS handshake failed"
    return None
