"""A route that declares ``streamed_body`` gets its request body in pieces, within limits for size and time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from starlette.types import ASGIApp, Message

from app.api.deps import WRITE
from app.api.streaming import StreamedBody, StreamedRoutes, streamed_body
from app.config import Settings
from app.core.services import Services
from app.main import create_app
from app.utils import metrics
from tests.conftest import _with_state

NDJSON = {"content-type": "application/x-ndjson"}
LIMITS = {"max_body_bytes": 4096, "body_timeout": 0.3, "request_timeout": 0.5, "ingest_timeout": 5.0}


class Reader:
    """What the endpoint has read so far. It waits after each piece as long as ``pause`` says."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.read = asyncio.Event()
        self.pause = 0.0

    async def until_read(self) -> None:
        async with asyncio.timeout(5):
            await self.read.wait()
        self.read.clear()


@pytest.fixture
def reader() -> Reader:
    return Reader()


def routes(reader: Reader) -> APIRouter:
    router = APIRouter()

    async def read(request: Request) -> dict[str, int]:
        async for piece in request.stream():
            reader.pieces.append(piece)
            reader.read.set()
            await asyncio.sleep(reader.pause)
        return {"bytes": sum(map(len, reader.pieces))}

    @router.post("/stream", dependencies=[WRITE])
    @streamed_body()
    async def stream(request: Request) -> dict[str, int]:
        return await read(request)

    @router.post("/long", dependencies=[WRITE])
    @streamed_body(max_bytes=100_000)
    async def long(request: Request) -> dict[str, int]:
        return await read(request)

    @router.post("/early", dependencies=[WRITE])
    @streamed_body()
    async def early(request: Request) -> dict[str, int]:
        return {"bytes": 0}

    return router


@pytest.fixture(params=[{}, {"rate_limit": "100/second"}], ids=["", "with a rate"])
async def served(request: pytest.FixtureRequest, reader: Reader) -> AsyncIterator[ASGIApp]:
    @asynccontextmanager
    async def services() -> AsyncIterator[Services]:
        yield cast("Services", SimpleNamespace())

    settings = Settings(_env_file=None, auth_disabled=True).model_copy(update=LIMITS | request.param)
    app = create_app(settings, services=services())
    app.include_router(routes(reader))
    async with AsyncExitStack() as stack:
        state = await stack.enter_async_context(app.router.lifespan_context(app))
        yield _with_state(app, dict(state))


@pytest.fixture
async def client(served: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=served)
    async with httpx.AsyncClient(transport=transport, base_url="http://server", headers=NDJSON) as opened:
        yield opened


async def test_the_endpoint_reads_a_piece_before_the_next_one_is_sent(
    client: httpx.AsyncClient, reader: Reader
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b'{"n": %d}\n' % number
            await reader.until_read()
            assert len([piece for piece in reader.pieces if piece]) == number + 1

    answer = await client.post("/stream", content=pieces())
    assert (answer.status_code, answer.json()) == (200, {"bytes": 27})
    assert "connection" not in answer.headers


async def test_size_is_limited_with_and_without_a_content_length(client: httpx.AsyncClient, reader: Reader) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b" " * 1000

    sent = await client.post("/stream", content=pieces())
    assert (sent.status_code, sent.json()["code"]) == (413, "body_too_large")
    assert sent.headers["connection"] == "close"
    assert sum(map(len, reader.pieces)) == 4000
    reader.pieces.clear()
    announced = await client.post("/stream", content=b" " * 4097)
    assert (announced.status_code, announced.json()["code"]) == (413, "body_too_large")
    assert reader.pieces == []
    assert (await client.post("/stream", content=b" " * 4096)).json() == {"bytes": 4096}


async def test_a_route_may_have_a_longer_limit(client: httpx.AsyncClient) -> None:
    assert (await client.post("/long", content=b" " * 100_000)).json() == {"bytes": 100_000}
    assert (await client.post("/long", content=b" " * 100_001)).status_code == 413


async def test_a_slow_client_is_given_up(client: httpx.AsyncClient, reader: Reader) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"."
            await asyncio.sleep(0.05)

    answer = await client.post("/stream", content=pieces())
    assert (answer.status_code, answer.json()["code"]) == (408, "body_too_slow")
    assert answer.headers["connection"] == "close"
    assert 1 <= len(reader.pieces) < 20


async def test_a_slow_endpoint_does_not_count(client: httpx.AsyncClient, reader: Reader) -> None:
    """Neither as time of the body (0.3 s) nor as that of a short request (0.5 s)."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"."

    reader.pause = 0.25
    answer = await client.post("/stream", content=pieces())
    assert (answer.status_code, answer.json()) == (200, {"bytes": 3})


async def test_a_response_before_the_end_of_the_body_closes_the_connection(client: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"."

    answer = await client.post("/early", content=pieces())
    assert (answer.status_code, answer.json(), answer.headers["connection"]) == (200, {"bytes": 0}, "close")


async def test_compression_is_not_supported(client: httpx.AsyncClient) -> None:
    answer = await client.post("/stream", content=b".", headers={"content-encoding": "gzip"})
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")


async def test_a_client_that_disconnects_is_no_error(served: ASGIApp, reader: Reader) -> None:
    received: list[Message] = [
        {"type": "http.request", "body": b".", "more_body": True},
        {"type": "http.disconnect"},
    ]
    scope: dict[str, Any] = {
        "type": "http", "method": "POST", "path": "/stream", "root_path": "", "query_string": b"",
        "headers": [(b"host", b"server"), (b"transfer-encoding", b"chunked")], "client": ("127.0.0.1", 1),
    }  # fmt: skip
    labels = {"method": "POST", "route": "/stream", "status": "499"}
    before = metrics.registry.get_sample_value("chat_memory_requests_total", labels) or 0
    sent: list[Message] = []

    async def receive() -> Message:
        return received.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await served(scope, receive, send)
    assert (reader.pieces, sent) == ([b"."], [])
    assert metrics.registry.get_sample_value("chat_memory_requests_total", labels) == before + 1


def test_only_the_route_that_takes_the_request_counts() -> None:
    app = FastAPI()

    async def buffered() -> None: ...

    @streamed_body(max_bytes=7)
    async def streamed(request: Request) -> None: ...

    router = APIRouter(prefix="/import")
    router.add_api_route("/first", buffered, methods=["POST"])
    router.add_api_route("/{name}", streamed, methods=["POST"])
    app.include_router(router, prefix="/v2")
    found = StreamedRoutes(app)

    def of(method: str, path: str, root_path: str = "") -> StreamedBody | None:
        return found.find({"type": "http", "method": method, "path": root_path + path, "root_path": root_path})

    assert of("POST", "/v2/import/second") == StreamedBody(7)
    assert of("POST", "/v2/import/second", "/proxy") == StreamedBody(7)
    assert of("POST", "/v2/import/first") is None
    assert of("PUT", "/v2/import/second") is None
    assert of("POST", "/import/second") is None
