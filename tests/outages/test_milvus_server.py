"""A Milvus server is killed and started again under a running server process."""

import asyncio
import os
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
from pymilvus import MilvusClient, MilvusException

from tests.conftest import BotClient, register, until
from tests.milvus_server import MilvusServer
from tests.outages.conftest import served
from tests.outages.test_outages import BACK_SECONDS, insert, read, search


def loaded(uri: str, collection: str) -> bool:
    """Whether Milvus has the collection in memory again. It answers long before, but cannot search until then."""
    with suppress(MilvusException, grpc.RpcError), closing(MilvusClient(uri, timeout=2, dedicated=True)) as client:
        client.query(collection, filter="chunk_id > 0", limit=1, timeout=2)
        return True
    return False


async def test_the_server_recovers_from_a_kill_of_the_milvus_server() -> None:
    with TemporaryDirectory(prefix="chat-memory-outage-") as name, MilvusServer(Path(name) / "milvus") as milvus:
        os.chmod(name, 0o755)
        environment = {"DATA_DIR": f"{name}/data", "MILVUS_URI": milvus.uri, "MILVUS_TIMEOUT": "5"}
        async with served(os.environ | environment) as (http, _):
            bot = await register(http)
            doc_id = await bot.insert("before")
            milvus.kill()
            for call in (insert, search):
                answer = await call(bot, doc_id)
                assert (answer.status_code, answer.headers.get("Retry-After")) == (503, "2"), answer.text
            assert (await read(bot, doc_id)).status_code == 200
            await asyncio.to_thread(milvus.start)

            async def back() -> bool:
                return await asyncio.to_thread(loaded, milvus.uri, f"bot_{bot.bot_id.hex}")

            await until(back, seconds=90)
            await until(lambda: works(bot, doc_id), seconds=BACK_SECONDS)
            assert "before" in {result["chunk_text"] for result in await bot.search("before", limit=50)}


async def works(bot: BotClient, doc_id: int) -> bool:
    return (await insert(bot, doc_id)).status_code == 201 and (await search(bot, doc_id)).status_code == 200
