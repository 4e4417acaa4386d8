"""POST /collection/import."""

import gzip
import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from app.api.imports import EXAMPLE
from app.core.embedding.port import Vectors
from app.core.operations.verify import Findings
from app.core.services import Services
from app.core.transfer import streams as core_streams
from app.utils.errors import EmbedderUnavailable, VectorIndexUnavailable
from app.utils.failpoints import install
from tests.conftest import BotClient, register
from tests.doubles.counting_embedder import CountingEmbedder
from tests.doubles.memory_index import MemoryIndex

NAMES = [f"text {number}" for number in range(1, 8)]


@pytest.fixture
def embedder() -> CountingEmbedder:
    return CountingEmbedder()


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_streams, "BATCH_DOCUMENTS", 3)


@pytest.fixture
async def exported(bot: BotClient, embedder: CountingEmbedder) -> bytes:
    for number, name in enumerate(NAMES):
        await bot.insert(name, f"more of {name}", title=name, external_id=name if number % 2 else None)
    content = await export(bot)
    embedder.embedded.clear()
    return content


@pytest.fixture
async def target(bot: BotClient) -> BotClient:
    return await register(bot.http)


async def export(bot: BotClient, **params: str) -> bytes:
    answer = await bot.http.get(f"/collection/{bot.bot_id}/export", params=params)
    return answer.content


async def send(bot: BotClient, body: Any, status: int = 200, **options: Any) -> dict[str, Any]:
    headers = options.pop("headers", {})
    params = {"chat_bot_id": str(bot.bot_id), "stream_key": "import", **options}
    answer = await bot.http.post("/collection/import", params=params, content=body, headers=headers)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def results(bot: BotClient) -> list[dict[str, Any]]:
    params = {"chat_bot_id": str(bot.bot_id)}
    answer = await bot.http.get("/data/insert/stream/import/results", params=params)
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def documents(content: bytes) -> list[dict[str, Any]]:
    """Those of an export, without what an import gives anew."""
    lines = [json.loads(line) for line in content.splitlines()[1:-1]]
    return [{key: value for key, value in one.items() if key not in ("doc_id", "updated_at")} for one in lines]


def cut(content: bytes, lines: int) -> bytes:
    return b"".join(content.splitlines(keepends=True)[:lines])


async def test_a_bot_comes_back_as_it_was(
    bot: BotClient, target: BotClient, exported: bytes, embedder: CountingEmbedder
) -> None:
    done = await send(target, gzip.compress(exported), headers={"content-encoding": "gzip"})
    assert (done["status"], done["torn"], done["lines"], done["stored"]) == ("success", None, 9, 7)
    assert done["verified"] == {"findings": 0, "by_kind": {}, "first": []}
    assert len(embedder.embedded) == 3 * core_streams.BATCH_DOCUMENTS - 3  # Two of each batch are compared.
    assert documents(await export(target)) == documents(exported)
    assert [one["line"] for one in await results(target)] == list(range(2, 9))
    # A repeat stores nothing, also documents without an external_id.
    again = await send(target, exported, verify="false")
    assert (again["repeated"], again["stored"], again["torn"], again["verified"]) == (9, 7, None, None)
    assert documents(await export(target)) == documents(exported)
    # The same bot: another stream stores the documents without a name once more.
    done = await send(bot, exported, on_conflict="skip")
    assert [one["result"] for one in await results(bot)] == ["created", "skipped"] * 3 + ["created"]
    assert done["status"] == "success"


async def test_an_example(target: BotClient) -> None:
    done = await send(target, EXAMPLE)
    assert (done["status"], done["lines"], done["stored"], done["torn"]) == ("success", 3, 1, None)


@pytest.mark.parametrize("how", ["vectors=false", "null", "another model"])
async def test_texts_are_embedded(target: BotClient, exported: bytes, embedder: CountingEmbedder, how: str) -> None:
    body, options = exported, {}
    if how == "vectors=false":
        options["vectors"] = "false"
    elif how == "null":
        lines = [json.loads(line) for line in exported.splitlines()]
        for chunk in lines[2]["chunks"]:
            chunk["vector"] = None
        body = b"".join(orjson.dumps(line) + b"\n" for line in lines)
    else:
        manifest, rest = exported.split(b"\n", 1)
        changed = json.loads(manifest)
        changed["bot"]["embedding_model"] = "another"
        body = orjson.dumps(changed) + b"\n" + rest
    done = await send(target, body, **options)
    assert done["stored"] == 7
    assert done["status"] == ("success" if how == "vectors=false" else "torn")  # The others have another hash.
    assert {"text 2", "more of text 2"} <= set(embedder.embedded)
    if how != "null":
        assert len(embedder.embedded) == 14


async def test_foreign_vectors_end_the_part(target: BotClient, exported: bytes) -> None:
    """Nothing of their batch is stored, and the part goes on without vectors."""
    lines = [json.loads(line) for line in exported.splitlines()]
    lines[5]["chunks"][0]["vector"], lines[5]["chunks"][1]["vector"] = (
        chunk["vector"] for chunk in reversed(lines[5]["chunks"])
    )
    lines[6]["chunks"] = [chunk | {"vector": None} for chunk in lines[6]["chunks"]]
    lines[7]["chunks"] = [chunk | {"vector": None} for chunk in lines[7]["chunks"]]
    body = b"".join(orjson.dumps(line) + b"\n" for line in lines)
    answer = await send(target, body, status=422)
    assert (answer["code"], answer["progress"]["stored"]) == ("vectors_differ", 3)
    done = await send(target, body, vectors="false")
    assert (done["repeated"], done["stored"]) == (4, 7)


@pytest.mark.parametrize(
    ("torn", "reason", "stored"),
    [
        (lambda body: cut(body, 5), "no last line", 4),
        (lambda body: cut(body, 1), "no last line", 0),
        (lambda body: cut(body, 5) + body.splitlines()[-1], "count", 4),
        (lambda body: body.replace(b"more of text 3", b"less of text 3"), "hash", 7),
        (lambda body: body + body.splitlines()[1] + b"\n", "lines after", 7),
    ],
)
async def test_a_torn_file_is_reported(target: BotClient, exported: bytes, torn: Any, reason: str, stored: int) -> None:
    body = torn(exported)
    for repeated in (0, len(body.splitlines())):
        done = await send(target, body, vectors="false")
        assert (done["status"], done["stored"], done["repeated"]) == ("torn", stored, repeated)
        assert reason in done["torn"]


async def test_what_was_cut_goes_on(target: BotClient, exported: bytes) -> None:
    assert (await send(target, cut(exported, 4)))["status"] == "torn"
    within = exported[: len(cut(exported, 6)) + 30]
    answer = await send(target, within, status=400)
    assert (answer["code"], answer["progress"]["lines"]) == ("malformed_body", 6)
    for body in (cut(exported, 3), b"", exported.replace(b"text 1", b"text 9")):
        assert (await send(target, body, status=409))["code"] == "part_differs"
    done = await send(target, exported)
    assert (done["status"], done["repeated"], done["stored"]) == ("success", 6, 7)
    assert documents(await export(target)) == documents(exported)


async def test_bad_lines_fail_alone(target: BotClient, exported: bytes) -> None:
    lines = exported.splitlines(keepends=True)
    lines[2] = b"{broken\n"
    lines[3] = lines[3].replace(b'"chunk_index":1', b'"chunk_index":0')
    lines[4] = lines[4].replace(b'"vector":"', b'"vector":"AAAA')
    lines[5] = lines[5].replace(b'"title"', b'"titel"')
    done = await send(target, b"".join(lines))
    assert (done["status"], done["stored"], done["failed"]) == ("torn", 3, 4)
    found = {one["line"]: one["error"] for one in await results(target) if not one["success"]}
    assert {line: error["code"] for line, error in found.items()} == {
        3: "malformed_body",
        4: "invalid_input",
        5: "invalid_input",
        6: "invalid_input",
    }
    assert all(error["detail"].startswith(f"body.lines.{line}: ") for line, error in found.items())


async def test_what_is_no_export(target: BotClient, exported: bytes) -> None:
    for body in (b"{}\n", exported.split(b"\n", 1)[1], orjson.dumps(target.body("a")) + b"\n"):
        answer = await send(target, body, status=422)
        assert "manifest" in answer["detail"]
    manifest = json.loads(exported.splitlines()[0]) | {"version": 9}
    assert "version 9" in (await send(target, orjson.dumps(manifest) + b"\n", status=422))["detail"]
    missing = {"chat_bot_id": str(uuid4()), "stream_key": "import"}
    answer = await target.http.post("/collection/import", params=missing, content=exported)
    assert answer.json()["code"] == "bot_not_found"


async def test_a_store_that_fails_ends_the_part(
    target: BotClient, exported: bytes, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the bot is verified, when all lines are stored."""

    async def fail(point: str) -> None:
        if point == "write.before_upsert":
            raise VectorIndexUnavailable("Milvus does not answer.")

    remove = install(fail)
    try:
        assert (await send(target, exported, status=503))["progress"]["lines"] == 0
    finally:
        remove()

    async def down(_bot_id: UUID) -> Findings:
        raise VectorIndexUnavailable("Milvus does not answer.")

    with monkeypatch.context() as patched:
        patched.setattr(services.verifier, "report", down)
        assert (await send(target, exported, status=503))["code"] == "vector_index_unavailable"
    done = await send(target, exported)
    assert (done["repeated"], done["stored"], done["verified"]["findings"]) == (9, 7, 0)


async def test_what_verify_finds(target: BotClient, exported: bytes, services: Services, index: MemoryIndex) -> None:
    await send(target, exported)
    collection = (await services.bots.get(target.bot_id, None)).milvus_collection
    keys = [key async for page in index.scan(collection) for key in page]
    await index.delete(collection, keys[:1])
    verified = (await send(target, exported))["verified"]
    assert (verified["findings"], verified["by_kind"]) == (1, {"vector_lost": 1})
    assert verified["first"][0]["chat_bot_id"] == str(target.bot_id)


async def test_an_embedder_that_is_down_ends_the_part(
    target: BotClient, exported: bytes, embedder: CountingEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although all vectors are there: no sample can be compared."""

    async def down(_texts: Sequence[str]) -> Vectors:
        raise EmbedderUnavailable("The embedder does not answer.")

    embed = embedder.embed_documents
    monkeypatch.setattr(embedder, "embed_documents", down)
    assert (await send(target, exported, status=503))["code"] == "embedder_unavailable"
    monkeypatch.setattr(embedder, "embed_documents", embed)
    assert (await send(target, exported))["stored"] == 7
