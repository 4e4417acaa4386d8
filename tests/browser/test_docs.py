"""/docs and /redoc of a fresh server in headless Chromium, which can reach no host but the server.

This writes the screenshot in README again:

    SCREENSHOT=docs/images/docs-search.png .venv/bin/python -m pytest tests/browser
"""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from app.models.collection import EXAMPLE_BOT
from app.models.data import EXAMPLE_EXTERNAL_ID
from scripts.own_server import own_server
from tests.browser.watched import CHROMIUM, Watched

UNFOLDED = """
    .highlight-code > .microlight { max-height: none !important; }
    .responses-inner > h4, .responses-inner > .responses-table,
    .responses-inner > div > .responses-table:not(.live-responses-table) { display: none !important; }
    .body-param__text { min-height: 90px !important; height: 90px !important; }
"""
REDOCS_MARK = "https://cdn.redoc.ly/redoc/logo-mini.svg"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to click through /docs (Debian: chromium)")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with own_server() as address:
        yield address


@pytest.fixture
def watched(browser: Browser, server: str) -> Iterator[Watched]:
    watched = Watched(browser, server)
    yield watched
    watched.page.close()


def execute(watched: Watched, tag: str, operation: str, **parameters: str) -> tuple[str, Any]:
    """Opens the operation, clicks "Try it out" and "Execute": the answer's status and body as the page shows them.

    ``parameters`` are typed in place of their examples. Afterwards the operation is closed, because each one that is
    open makes the page slower.
    """
    block = watched.page.locator(f"#operations-{tag}-{operation}")
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    for name, value in parameters.items():
        block.locator(f"tr[data-param-name='{name}'] input").fill(value)
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table .response").first
    answer.wait_for()
    status = answer.locator(".response-col_status").inner_text().split()[0]
    if operation == "export_collection":  # A file, which the page offers for download.
        block.locator(".opblock-summary-control").click()
        watched.executed.add(f"operations-{tag}-{operation}")
        return status, None
    shown = answer.locator(".response-col_description .highlight-code code").first.inner_text()
    if operation == "search" and "SCREENSHOT" in os.environ:
        screenshot(watched.page, os.environ["SCREENSHOT"])
    block.locator(".opblock-summary-control").click()
    watched.executed.add(f"operations-{tag}-{operation}")
    return status, shown if operation == "metrics" else json.loads(shown)


def expect(watched: Watched, operation: str, status: str, worth: dict[str, Any], **parameters: str) -> Any:
    """Executes an operation of /data: its answer, which has this status and contains ``worth``."""
    found, answer = execute(watched, "data", operation, **parameters)
    assert (found, {name: answer.get(name) for name in worth}) == (status, worth), (operation, answer)
    return answer


def test_the_examples_work_in_the_order_of_the_page(watched: Watched, server: str) -> None:
    page = watched.page
    page.goto(f"{server}/docs")

    status, bot = execute(watched, "collection", "create_collection")
    assert (status, bot["collection_name"]) == ("201", "seoul_guide")
    status, inserted = execute(watched, "data", "insert_document")
    assert (status, inserted["total_chunks"]) == ("201", 2)
    doc_id = inserted["doc_id"]
    status, found = execute(watched, "search", "search")
    assert status == "200"
    assert found["results"][0]["chunk_text"] == "경복궁은 화요일에 문을 닫는다."

    status, batch = execute(watched, "search", "search_batch")
    assert (status, [len(answer["results"]) for answer in batch["answers"]]) == ("200", [1, 1])
    for operation in ("list_documents", "query_documents"):
        status, listed = execute(watched, "data", operation)
        assert (status, [document["doc_id"] for document in listed["documents"]]) == ("200", [doc_id])
    expect(watched, "count_facets", "200", {"values": [{"value": "ko", "documents": 1}]})
    for operation in ("get_document", "get_document_by_external_id"):
        answer = expect(watched, operation, "200", {"chunk_count": 2})
        assert (answer["document"]["doc_id"], answer["document"]["external_id"]) == (doc_id, EXAMPLE_EXTERNAL_ID)
    expect(watched, "patch_by_filter", "200", {"matching_documents": 1})
    expect(watched, "delete_by_filter", "200", {"matching_documents": 1, "deleted_documents": 0})  # A dry run.

    assert len(expect(watched, "list_chunks", "200", {"doc_id": doc_id, "chunk_count": 2})["chunks"]) == 2
    assert expect(watched, "get_chunk", "200", {"doc_id": doc_id})["chunk"]["chunk_index"] == 1
    expect(watched, "replace_chunk", "200", {"doc_id": doc_id, "chunk_index": 1, "chunk_count": 2})
    expect(watched, "insert_chunk", "201", {"doc_id": doc_id, "chunk_index": 2, "chunk_count": 3})
    expect(watched, "delete_chunk", "200", {"doc_id": doc_id, "chunk_index": 1, "chunk_count": 2})

    expect(watched, "replace_document", "200", {"doc_id": doc_id, "inserted_chunks": 2})
    expect(watched, "put_document_by_external_id", "200", {"doc_id": doc_id, "result": "replaced"})
    for operation in ("patch_document_metadata", "patch_document_metadata_by_external_id"):
        expect(watched, operation, "200", {"doc_id": doc_id})
    expect(watched, "delete_document", "200", {"doc_id": doc_id, "deleted_chunks": 2})
    expect(watched, "delete_documents", "200", {"status": "failed", "not_found": [doc_id]})
    expect(watched, "insert_documents", "200", {"status": "success", "success_count": 1})
    expect(watched, "delete_document_by_external_id", "200", {"deleted_chunks": 2})

    session = expect(watched, "start_sync", "200", {"status": "success"})["session_id"]
    answer = expect(watched, "sync_documents", "200", {"status": "success"}, session_id=session)
    assert [result["result"] for result in answer["results"]] == ["created"]
    expect(watched, "finish_sync", "200", {"deleted_documents": 0}, session_id=session)
    session = page.request.post(f"{server}/data/sync", data={"chat_bot_id": EXAMPLE_BOT}).json()["session_id"]
    expect(watched, "cancel_sync", "200", {"session_id": session}, session_id=session)

    named = {"chat_bot_id": EXAMPLE_BOT, "external_id": EXAMPLE_EXTERNAL_ID}
    assert page.request.delete(f"{server}/data/document", params=named).json()["deleted_chunks"] == 2
    for operation in ("load_part", "get_stream", "get_stream_results"):
        assert execute(watched, "data", operation)[0] == "200", operation

    status, job = execute(watched, "jobs", "start_job")
    assert (status, job["kind"], job["state"]) == ("202", "verify", "running")
    for operation in ("get_job", "cancel_job"):
        status, answer = execute(watched, "jobs", operation, job_id=job["job_id"])
        assert (status, answer["job_id"]) == ("200", job["job_id"])
    assert execute(watched, "jobs", "list_jobs")[0] == "200"
    for operation in ("list_keys", "get_own_key"):
        assert execute(watched, "keys", operation)[0] == "200"
    assert execute(watched, "keys", "create_key")[0] == "403"  # This server requires no keys.
    assert execute(watched, "keys", "revoke_key")[0] == "404"

    for operation in ("get_usage", "set_quota"):
        assert execute(watched, "quotas", operation)[0] == "200"

    for tag, operation in [
        ("collection", "list_collections"), ("collection", "update_collection"), ("collection", "get_collection"),
        ("collection", "export_collection"), ("collection", "import_collection"), ("collection", "warm_collection"),
        ("embeddings", "create_embeddings"), ("embeddings", "list_models"), ("embeddings", "get_model"),
        ("health", "health"), ("health", "ready"), ("health", "live"), ("health", "list_errors"),
        ("metrics", "metrics"),
        ("collection", "delete_collection"),
    ]:  # fmt: skip
        assert execute(watched, tag, operation)[0] == "200", operation
    status, problem = execute(watched, "rerank", "rerank")
    assert (status, problem["code"]) == ("404", "model_not_found")  # A fresh server has no reranker.

    assert watched.other_hosts == {}
    assert [text for text in watched.errors if "404" not in text and "403" not in text] == []
    assert watched.executed == {block.get_attribute("id") for block in page.locator(".opblock").all()}


def screenshot(page: Page, path: str) -> None:
    """Takes a picture of the search with its whole answer, without the list of possible answers."""
    page.locator("#operations-search-search").screenshot(path=path, style=UNFOLDED)


def test_redoc_shows_every_operation_and_calls_no_other_host(watched: Watched, server: str) -> None:
    page = watched.page
    page.goto(f"{server}/redoc")
    page.locator("[id='tag/health']").first.wait_for()
    document = page.request.get(f"{server}/openapi.json").json()
    headings = page.locator("h2").all_inner_texts()
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["summary"] in [heading.strip() for heading in headings]
    assert watched.requested == {
        "/redoc",
        "/openapi.json",
        *(f"/docs/assets/{name}" for name in ("redoc.css", "redoc.js", "redoc.standalone.js")),
    }
    # ReDoc tries to show its logo. The content security policy blocks the request.
    assert watched.other_hosts == {REDOCS_MARK: "csp"}
    assert [text for text in watched.errors if REDOCS_MARK not in text] == []
