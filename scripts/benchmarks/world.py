"""What a benchmark runs against: both stores, a stub of an embedding provider, and API servers."""

import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from tqdm import tqdm

from app.core.stores.address import PostgresAddress
from app.core.stores.embedded.stores import embedded_stores
from scripts.benchmarks.embedders import DELAY_MS
from scripts.benchmarks.http import Connection
from scripts.korquad import paragraphs
from scripts.own_server import own_server

DATABASE = "rag_db_chatty"
BATCH = 100


@dataclass(frozen=True, slots=True)
class World:
    folder: Path
    milvus: str
    postgres: PostgresAddress
    milvus_uri: str
    stub: str
    milvus_pid: int | None = None
    """Of the Milvus server; None with Milvus Lite."""

    @contextmanager
    def api(self, embedder: str, **more: str) -> Iterator[str]:
        """Yields the address of an API server on these stores, without an embedding cache."""
        settings = {"DATA_DIR": str(self.folder / "data"), "EMBEDDING_CACHE_MB": "0", **more}
        if self.milvus == "server":
            settings["MILVUS_URI"] = self.milvus_uri
        app = "scripts.benchmarks.hash_app:app" if embedder == "hash" else "app.main:app"
        if embedder == "+50ms":
            settings |= {"EMBEDDING_MODEL": "openai", "OPENAI_MODEL": "stub", "OPENAI_BASE_URL": self.stub}
        with own_server(app=app, **settings) as address:
            yield address


@asynccontextmanager
async def opened_world(milvus: str, settings: Mapping[str, int | bool] | None = None) -> AsyncIterator[World]:
    """``milvus``: lite or server, the latter with ``settings`` in its milvus.yaml. PostgreSQL is embedded."""
    with tempfile.TemporaryDirectory(prefix="chat-bench-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        async with AsyncExitStack() as stack:
            stub = stack.enter_context(_stub())
            uri, pid = "", None
            if milvus == "server":
                from tests.milvus_server import MilvusServer

                server = stack.enter_context(MilvusServer(folder / "milvus", settings))
                uri, pid = server.uri, server.pid
            stores = await stack.enter_async_context(
                embedded_stores(folder / "data", postgres=True, milvus=milvus == "lite", database=DATABASE)
            )
            assert stores.postgres is not None
            yield World(folder, milvus, stores.postgres, stores.milvus_uri or uri, stub, pid)


@contextmanager
def _stub() -> Iterator[str]:
    command = [sys.executable, "-m", "scripts.benchmarks.stub", str(DELAY_MS)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


async def new_bot(connection: Connection) -> str:
    bot = str(uuid4())
    body = {"chat_bot_id": bot, "bot_name": "bench", "collection_name": f"bench_{bot.replace('-', '')}"}
    await connection.call("POST", "/collection/create", body)
    return bot


async def insert_paragraphs(connection: Connection, bot: str, count: int | None = None) -> None:
    """Inserts the first ``count`` paragraphs, or all, as documents of one chunk."""
    wanted = paragraphs()[:count]
    for start in tqdm(range(0, len(wanted), BATCH), desc="insert", unit="batch", disable=None, leave=False):
        documents = [document(bot, item.title, item.text) for item in wanted[start : start + BATCH]]
        answer = await connection.call("POST", "/data/insert/batch", {"documents": documents})
        assert answer["failure_count"] == 0, answer


def document(bot: str, title: str, text: str) -> dict[str, object]:
    return {
        "document": {"chat_bot_id": bot, "title": title, "metadata": {"source": "korquad"}},
        "chunks": [{"chunk_index": 0, "text": text}],
    }
