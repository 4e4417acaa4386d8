"""A server process as clients see it: README's examples run by bash and curl, and calls over HTTP."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import openai
import pytest

from app.config import Settings
from app.main import create_app
from app.utils.errors import AppError

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DESIGN = (ROOT / "RAG_Milvus_API_Design.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(r"```bash\n(.+?)```\n```(jsonc?)\n(.+?)```", re.DOTALL)
"""A command and its answer: json complete, jsonc shortened to some of its fields."""
README_ADDRESS = "http://127.0.0.1:8000"
CHANGING = re.compile(r"_ms$|_at$|^request_id$")
START_SECONDS = 60
STOP_SECONDS = 30


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a fresh server on embedded stores, started as README says and stopped as Ctrl-C would."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Without the settings and the .env of whoever runs the tests: they may name real servers.
    environment = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    environment |= {"DATA_DIR": str(folder / "data"), "AUTH_DISABLED": "true", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "uvicorn", "app.main:app", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(address, process, folder / "log")
        yield address
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _wait_until_ready(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{address}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail(f"the server did not become ready:\n{log.read_text(encoding='utf-8')}")


@pytest.fixture
def http(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=30) as client:
        yield client


@pytest.fixture
def bot(http: httpx.Client) -> str:
    """A registered bot's chat_bot_id."""
    bot_id = str(uuid4())
    body = {"chat_bot_id": bot_id, "bot_name": "봇", "collection_name": f"bot_{bot_id.replace('-', '_')}"}
    assert http.post("/collection/create", json=body).status_code == 201
    assert http.post("/collection/create", json=body).status_code == 200
    return bot_id


def _document(bot: str, *texts: str, title: str = "안내") -> dict[str, Any]:
    chunks = [{"chunk_index": number, "text": text} for number, text in enumerate(texts)]
    return {"document": {"chat_bot_id": bot, "title": title}, "chunks": chunks}


def _found(http: httpx.Client, bot: str, text: str) -> list[str]:
    answer = http.post("/search/query", json={"chat_bot_id": bot, "query_text": text})
    assert answer.status_code == 200, answer.text
    return [result["chunk_text"] for result in answer.json()["results"]]


def _problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["code"], body["type"]) == (status, code, f"urn:problem:{code}")
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


# README comes first: its ids are those of a fresh server.


def test_readme_examples_print_what_readme_says(server: str) -> None:
    examples = EXAMPLE.findall(README)
    assert [command.startswith("curl ") for command, _, _ in examples] == [True] * 7
    assert [kind for _, kind, _ in examples] == ["jsonc"] * 3 + ["json"] * 4
    for command, kind, printed in examples:
        assert README_ADDRESS in command
        done = subprocess.run(
            ["bash", "-c", command.replace(README_ADDRESS, server)], capture_output=True, text=True, check=True
        )
        answer, shown = _comparable(json.loads(done.stdout)), _comparable(json.loads(printed))
        if kind == "jsonc":
            required, known = _documented_fields(command.split()[2].removeprefix(README_ADDRESS))
            assert required <= answer.keys() <= known
            answer = _shortened(answer, shown)
        assert answer == shown, command


def _documented_fields(path: str) -> tuple[set[str], set[str]]:
    """The fields of a successful POST's answer that are always there, and all of them."""
    openapi = create_app().openapi()
    responses = openapi["paths"][path]["post"]["responses"]
    success = next(responses[status] for status in ("201", "200") if status in responses)
    name = success["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    schema = openapi["components"]["schemas"][name]
    return set(schema["required"]), set(schema["properties"])


def _shortened(answer: Any, shown: Any) -> Any:
    """``answer`` with the fields that ``shown`` has and no others."""
    if isinstance(answer, dict) and isinstance(shown, dict):
        return {name: _shortened(answer[name], shown[name]) for name in answer if name in shown}
    if isinstance(answer, list) and isinstance(shown, list) and len(answer) == len(shown):
        return [_shortened(one, other) for one, other in zip(answer, shown, strict=True)]
    return answer


def _comparable(value: Any, key: str = "") -> Any:
    """Times become the names of their types, scores lose what a processor's rounding decides."""
    if isinstance(value, dict):
        return {name: _comparable(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    if CHANGING.search(key):
        return type(value).__name__
    return round(value, 2) if key.endswith(("score", "confidence")) and value is not None else value


def test_korean_readme_has_the_same_examples() -> None:
    korean = (ROOT / "docs" / "README.ko.md").read_text(encoding="utf-8")
    assert EXAMPLE.findall(korean) == EXAMPLE.findall(README)


def test_documentation_names_every_endpoint() -> None:
    paths = create_app().openapi()["paths"]
    calls = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    for text in (README, (ROOT / "docs" / "README.ko.md").read_text(encoding="utf-8"), DESIGN):
        assert {call for call in calls if f"`{call}`" not in text} == set()


def test_design_names_every_error() -> None:
    def family(error: type[AppError]) -> set[tuple[int, str]]:
        return {(error.status, error.code)}.union(*map(family, error.__subclasses__()))

    rows = {(int(status), code) for status, code in re.findall(r"^\| (\d{3}) \| `(\w+)` \|", DESIGN, re.MULTILINE)}
    # The one that is a base and nothing more.
    assert family(AppError) - rows == {(409, "conflict")}


def test_documents_of_a_batch_are_found(http: httpx.Client, bot: str) -> None:
    documents = [_document(bot, "남산에는 케이블카가 있다."), _document(bot, "경복궁은 화요일에 문을 닫는다.")]
    answer = http.post("/data/insert/batch", json={"account_name": "chatty", "documents": documents}).json()
    assert (answer["status"], answer["success_count"], answer["failure_count"]) == ("success", 2, 0)
    assert _found(http, bot, "경복궁은 무슨 요일에 쉬나요?")[0] == "경복궁은 화요일에 문을 닫는다."
    one, rest = (
        http.get("/data/documents", params={"chat_bot_id": bot, "limit": 1}).json(),
        http.get("/data/documents", params={"chat_bot_id": bot}).json(),
    )
    assert (len(one["documents"]), one["next_cursor"]) == (1, str(answer["results"][0]["doc_id"]))
    assert ([item["doc_id"] for item in rest["documents"]], rest["next_cursor"]) == (
        [result["doc_id"] for result in answer["results"]],
        None,
    )


def test_a_batch_that_fails_in_part_stores_the_rest(http: httpx.Client, bot: str) -> None:
    documents = [_document(bot, "하나"), _document(str(uuid4()), "둘")]
    answer = http.post("/data/insert/batch", json={"documents": documents}).json()
    assert answer["status"] == "partial"
    assert [result["success"] for result in answer["results"]] == [True, False]
    assert answer["results"][1]["error"]["code"] == "bot_not_found"


def test_a_document_can_be_replaced_patched_and_deleted(http: httpx.Client, bot: str) -> None:
    at = {"chat_bot_id": bot}
    doc_id = http.post("/data/insert", json=_document(bot, "옛 문장이다.")).json()["doc_id"]
    path = f"/data/document/{doc_id}"

    replaced = http.put(path, json=_document(bot, "새 문장이다.", "둘째 문장이다.")).json()
    assert (replaced["deleted_chunks"], replaced["inserted_chunks"]) == (1, 2)
    assert sorted(_found(http, bot, "문장")) == ["둘째 문장이다.", "새 문장이다."]

    patch = {**at, "metadata_updates": {"title": "새 이름", "language": "ko"}}
    assert http.patch(f"{path}/metadata", json=patch).json()["doc_id"] == doc_id
    stored = http.get(path, params=at).json()
    assert (stored["document"]["title"], stored["document"]["metadata"]) == ("새 이름", {"language": "ko"})
    assert [chunk["text"] for chunk in stored["chunks"]] == ["새 문장이다.", "둘째 문장이다."]

    assert http.delete(path, params=at).json()["deleted_chunks"] == 2
    assert _found(http, bot, "문장") == []
    _problem(http.delete(path, params=at), 404, "document_not_found")


def test_a_deleted_bot_is_unknown(http: httpx.Client, bot: str) -> None:
    assert http.get(f"/collection/{bot}").json()["document_count"] == 0
    assert http.delete(f"/collection/{bot}").status_code == 200
    _problem(http.get(f"/collection/{bot}"), 404, "bot_not_found")
    _problem(http.post("/data/insert", json=_document(bot, "하나")), 404, "bot_not_found")


def test_an_error_in_a_body_names_its_place(http: httpx.Client, bot: str) -> None:
    body = _problem(http.post("/data/insert", json=_document(bot, "하나", " ")), 422, "invalid_input")
    assert [error["loc"] for error in body["errors"]] == ["body.chunks.1.text"]
    assert http.get("/data/documents", params={"chat_bot_id": bot}).json()["documents"] == []


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
def test_health_reports_each_dependency(http: httpx.Client, path: str) -> None:
    report = http.get(path).json()
    assert report["status"] == "ok"
    assert {name: state["status"] for name, state in report["dependencies"].items()} == {
        "postgres": "up",
        "milvus": "up",
        "embedder": "up",
    }


def test_a_running_server_is_live(http: httpx.Client) -> None:
    assert http.get("/health/live").json() == {"status": "ok"}


def test_the_openai_client_gets_the_vectors_that_searches_use(server: str, http: httpx.Client, bot: str) -> None:
    texts = ["광화문은 경복궁의 남쪽 정문이다.", "경복궁은 화요일에 문을 닫는다."]
    assert http.post("/data/insert", json=_document(bot, texts[0])).status_code == 201
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none") as client:
        answer = client.embeddings.create(model="use-multilingual", input=texts)
    stored, question = np.array([item.embedding for item in answer.data])
    query = {"chat_bot_id": bot, "query_text": texts[1], "mode": "dense"}
    [result] = http.post("/search/query", json=query).json()["results"]
    assert result["score"] == pytest.approx(float(stored @ question), abs=1e-4)
