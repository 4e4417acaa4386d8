"""How MilvusIndex connects, waits, meets its deadlines and recovers."""

import asyncio
import time
from pathlib import Path

import pytest

from app.core.ports import VectorIndex
from app.utils.errors import StartupError, VectorIndexUnavailable
from tests.contract.conftest import DIMENSION, new_name
from tests.contract.milvus_backends import Server, connected, name, server
from tests.contract.test_vector_index import CALLS, axis, ids, nearest, scanned, upsert
from tests.lite_server import LiteServer
from tests.milvus_index import connect_index, loading
from tests.milvus_server import free_ports

__all__ = ["name", "server"]

TIMEOUT = 1.0


async def test_released_collection_is_loaded_at_its_next_use(server: Server, name: str) -> None:
    async with connected(server) as index:
        await index._client.release_collection(name, timeout=10)
        assert len(await nearest(loading(index), name, axis(0), 1)) == 1


async def test_nobody_listens() -> None:
    started = time.monotonic()
    with pytest.raises(VectorIndexUnavailable):
        await connect_index(f"http://127.0.0.1:{free_ports(1)[0]}", timeout=TIMEOUT, wait=0.5)
    assert time.monotonic() - started < 2


async def test_an_address_that_is_none() -> None:
    with pytest.raises(StartupError, match="MILVUS_URI"):
        await connect_index("milvus.example:19530")


async def test_connect_waits_for_a_server_that_is_still_starting(tmp_path: Path) -> None:
    server = LiteServer(tmp_path)
    waiting = asyncio.create_task(connect_index(server.uri, wait=20))
    await asyncio.sleep(0.5)
    await asyncio.to_thread(server._spawn)
    index = await waiting
    await index.ping()
    await index.close()
    server.kill()


async def test_silent_server_meets_the_deadline(server: Server, name: str) -> None:
    async with connected(server, TIMEOUT) as index:
        await scanned(index, name)
        server.pause()
        try:
            started = time.monotonic()
            calls = [call(index, name) for call in CALLS.values()] + [index.ping(), index.collections()]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert time.monotonic() - started < TIMEOUT + 1
            assert [type(outcome) for outcome in outcomes] == [VectorIndexUnavailable] * len(calls)
            with pytest.raises(VectorIndexUnavailable):
                await connect_index(server.uri, timeout=TIMEOUT, wait=TIMEOUT)
            assert time.monotonic() - started < 2 * TIMEOUT + 2
        finally:
            server.resume()
        await eventually_pings(index)
        assert 1 in await index.present(name, [(0, 2)])


async def test_cancellation_passes_through(server: Server, name: str) -> None:
    async with connected(server) as index:
        await nearest(index, name, axis(0), 1)
        server.pause()
        try:
            for call in CALLS.values():
                task = asyncio.ensure_future(call(index, name))
                await asyncio.sleep(0.05)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        finally:
            server.resume()
        await eventually_pings(index)


async def test_closing_under_a_call_is_not_a_cancellation(server: Server, name: str) -> None:
    async with connected(server) as index:
        await nearest(index, name, axis(0), 1)
        server.pause()
        try:
            task = asyncio.ensure_future(nearest(index, name, axis(0), 1))
            await asyncio.sleep(0.05)
            await index.close()
            with pytest.raises(VectorIndexUnavailable):
                await task
        finally:
            server.resume()


async def test_crash_and_restart(tmp_path: Path) -> None:
    """On Lite, whose restart is quick. The index reconnects by itself and finds what was acknowledged."""
    name = new_name()
    with LiteServer(tmp_path) as server:
        async with connected(server, TIMEOUT) as connection:
            index = loading(connection)
            await index.create(name, DIMENSION)
            await upsert(index, name, {1: axis(0), 2: axis(1)})
            await index.delete(name, [2])
            server.kill()
            for call in CALLS.values():
                with pytest.raises(VectorIndexUnavailable):
                    await call(index, name)
            await asyncio.to_thread(server.start)
            await eventually_pings(index)
            assert await scanned(index, name) == [[1]]
            assert ids(await nearest(index, name, axis(0), 5)) == [1]
            await upsert(index, name, {3: axis(1)})
            await index.delete(name, [1])
            assert await scanned(index, name) == [[3]]


async def eventually_pings(index: VectorIndex) -> None:
    for _ in range(50):
        try:
            return await index.ping()
        except VectorIndexUnavailable:
            await asyncio.sleep(0.1)
    pytest.fail("the index did not recover")
