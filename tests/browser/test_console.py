"""/console in headless Chromium, on a server that requires keys. It can reach no host but the server.

This writes a picture of each view in every combination of colours, width and language:

    SCREENSHOTS=/tmp/console .venv/bin/python -m pytest tests/browser/test_console.py

In docs/images, console-search.png is search-light-1280-en.png with 256 colours, console-document-ko.png is
document-dark-1280-ko.png.
"""

import gzip
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from scripts.own_server import environment_of, own_folder, server_in
from tests.browser.watched import CHROMIUM, Watched

CONSOLE = Path(__file__).parents[2] / "app" / "static" / "console"
AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text(encoding="utf-8")
MAX_ROWS = 200
MAX_COMPRESSED = 250_000
COMBINATIONS = list(itertools.product(("light", "dark"), (1920, 1280, 400), ("en-US", "ko-KR")))
SHOWN = COMBINATIONS if "SCREENSHOTS" in os.environ else [COMBINATIONS[0], COMBINATIONS[-1]]
FOCUSED = """() => {
    const focused = document.activeElement;
    return focused.getAttribute("aria-label") ?? focused.textContent.trim();
}"""
EXPECTED_ERROR = re.compile(r"the server responded with a status of (401|422)")
"""Chromium itself writes this to the console for an answer that the test provokes."""
GUIDE = {
    "경복궁 안내": ("경복궁은 조선 왕조의 법궁이다.", "경복궁은 화요일에 문을 닫는다.", "한복을 입으면 무료이다."),
    "창덕궁과 후원": ("창덕궁은 월요일에 쉰다.", "후원은 예약한 사람만 들어갈 수 있다."),
    "남산과 케이블카": ("남산에는 케이블카가 있다. 밤 11시까지 탈 수 있다.",),
    "National Museum of Korea": ("The museum is open every day except on New Year's Day.", "Which day is it closed?"),
}

expect.set_options(timeout=30_000)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open /console (Debian: chromium)")


class Console(NamedTuple):
    url: str
    operator: str
    reader: str
    bot_id: str
    doc_id: int


@pytest.fixture(scope="module")
def console() -> Iterator[Console]:
    """A server with three bots, the first of which has documents, and two keys."""
    with own_folder() as folder:
        command = [sys.executable, "-m", "app.cli", "keys", "create", "--scope", "operator"]
        operator = subprocess.check_output(command, cwd=folder, env=environment_of(folder), text=True).strip()
        with server_in(folder, AUTH_DISABLED="false") as url:
            headers = {"Authorization": f"Bearer {operator}"}
            with httpx.Client(base_url=url, headers=headers, timeout=60) as http:
                yield _filled(http, url, operator)


def _filled(http: httpx.Client, url: str, operator: str) -> Console:
    def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = http.post(path, json=body)
        assert answer.status_code in (200, 201, 202), answer.text
        content: dict[str, Any] = answer.json()
        return content

    reader = post("/keys", {"account_name": "chatty", "scope": "read", "note": "dashboard"})["key"]
    names = ("사내 규정 봇", "Support handbook", "서울 안내 봇")
    for number, name in enumerate(names, 1):
        bot_id = f"7f3c1e9a-2b4d-4c6e-8f10-{number:012d}"
        post("/collection/create", {"chat_bot_id": bot_id, "bot_name": name, "collection_name": f"bot_{number}"})
    documents = [
        {
            "document": {
                "chat_bot_id": bot_id,
                "title": title,
                "external_id": f"guide/{number}",
                "tags": ["seoul", "guide"],
                "metadata": {"language": "ko" if title > "a" else "en", "reviewed": True},
            },
            "chunks": [{"chunk_index": index, "text": text} for index, text in enumerate(texts)],
        }
        for number, (title, texts) in enumerate(GUIDE.items(), 1)
    ]
    doc_id = post("/data/insert/batch", {"documents": documents})["results"][0]["doc_id"]
    questions = [{"question": texts[-1], "passage": texts[-1]} for texts in GUIDE.values()]
    post("/jobs", {"kind": "verify"})
    post("/jobs", {"kind": "tune", "chat_bot_id": bot_id, "questions": questions})
    return Console(url, operator, reader, bot_id, doc_id)


@pytest.fixture
def watched(browser: Browser, console: Console) -> Iterator[Watched]:
    watched = Watched(browser, console.url, locale="en-US", viewport={"width": 1280, "height": 900})
    yield watched
    watched.page.close()
    assert watched.other_hosts == {}
    assert [text for text in watched.errors if not EXPECTED_ERROR.search(text)] == []


def enter(page: Page, console: Console, key: str, view: str = "search") -> None:
    page.goto(f"{console.url}/console#/{view}")
    page.locator("input[type=password]").fill(key)
    page.keyboard.press("Enter")
    page.locator("#main h1").wait_for()


def button(page: Page | Locator, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def test_from_an_empty_bot_to_its_deletion(watched: Watched, console: Console, tmp_path: Path) -> None:
    page = watched.page
    enter(page, console, console.operator, "bots")
    button(page, "Register a bot").click()
    page.get_by_label("Name", exact=True).fill("New guide")
    button(page.get_by_role("dialog"), "Register a bot").click()
    page.get_by_role("link", name="New guide").click()
    expect(page.get_by_text("This bot has no documents yet")).to_be_visible()

    lines = [
        json.dumps({"document": {"title": "Palace", "external_id": "p"}, "chunks": ["It closes on Tuesday.", "Free."]}),
        "{",
        json.dumps({"document": {"title": "Bad"}, "chunks": [{"chunk_index": 0, "text": " "}]}),
        json.dumps({"document": {"title": "Tower"}, "chunks": [{"chunk_index": 0, "text": "A cable car goes up."}]}),
    ]
    file = tmp_path / "guide.ndjson"
    file.write_text("\n".join(lines), encoding="utf-8")
    button(page, "Upload").first.click()
    page.locator("dialog input[type=file]").set_input_files(file)
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("3 of 3 documents")).to_contain_text("created 2 · failed 2")
    assert [one.split(" ")[1] for one in dialog.locator(".line-errors li").all_inner_texts()] == ["2", "3"]
    button(dialog, "Close").last.click()
    expect(page.locator("tbody tr")).to_have_count(2)

    page.get_by_role("link", name="Search bench").click()
    page.locator(".ask select").select_option(label="New guide")
    page.get_by_role("searchbox").fill("Which day is the palace closed, Tuesday?")
    button(page, "Search").click()
    expect(page.locator(".column")).to_have_count(3)
    hybrid = page.get_by_role("region", name="Hybrid")
    expect(hybrid.locator(".passage").first).to_have_text("It closes on Tuesday.")
    assert "Tuesday" in hybrid.locator("mark").all_inner_texts()
    assert hybrid.locator(".timing dt").all_inner_texts()[-1] == "Total"
    page.get_by_role("tab", name="Python").click()
    expect(page.locator(".snippets code")).to_contain_text('"query_text": "Which day is the palace closed, Tuesday?"')
    page.get_by_role("tab", name="MCP").click()
    call = json.loads(page.locator(".snippets code").inner_text().partition("-d '")[2].rstrip("'"))
    headers = {"Authorization": f"Bearer {console.operator}", "Accept": "application/json, text/event-stream"}
    answer = httpx.post(f"{console.url}/mcp", json=call, headers=headers).json()
    assert answer["result"]["structuredContent"]["results"][0]["text"] == "It closes on Tuesday."
    page.get_by_text("Options and filter").click()
    page.get_by_label("Hybrid, reranked").check()
    button(page, "Search").click()
    expect(page.get_by_role("region", name="Hybrid, reranked").get_by_role("alert")).to_contain_text("RERANK_MODEL")

    hybrid.get_by_role("link", name="Palace").first.click()
    expect(page.locator(".chunks .found p")).to_have_text("It closes on Tuesday.")
    button(page, "Edit chunk 0").click()
    page.locator("dialog textarea").fill("It closes on Monday.")
    button(page, "Save").click()
    expect(page.locator(".chunks p").first).to_have_text("It closes on Monday.")
    button(page, "Edit").click()
    page.locator("dialog .json textarea").fill('{"language": "en"}')
    button(page, "Save").click()
    expect(page.locator(".facts code")).to_contain_text('"language": "en"')
    button(page, "Delete").click()
    button(page.get_by_role("dialog"), "Delete").click()
    expect(page.locator("tbody tr")).to_have_count(1)

    page.get_by_role("link", name="Bots").click()
    button(page, "Delete: New guide").click()
    sure = button(page.get_by_role("dialog"), "Delete")
    expect(sure).to_be_disabled()
    page.locator("dialog input").fill("New guide")
    sure.click()
    expect(page.get_by_role("link", name="New guide")).to_have_count(0)


def test_an_error_of_a_filter_is_shown_at_its_place(watched: Watched, console: Console) -> None:
    page = watched.page
    enter(page, console, console.operator, f"search?bot={console.bot_id}")
    page.get_by_text("Options and filter").click()
    page.get_by_role("searchbox").fill("palace")
    page.get_by_role("tab", name="JSON").click()
    area = page.locator(".json textarea")
    area.fill('{"type": "eq",\n "key": }')
    expect(page.locator(".json-error")).to_contain_text("Line 2, column 9")
    expect(page.locator(".bad-line")).to_have_text('"key": }')
    expect(button(page, "Search")).to_be_disabled()
    conditions = ('{"type": "eq", "key": "metadata.a", "value": 1}', '{"type": "gte", "key": "tags", "value": 3}')
    area.fill('{"type": "and", "filters": [\n' + ",\n".join(conditions) + "]}")
    button(page, "Search").click()
    expect(page.locator(".json-error")).to_contain_text("Line 3")
    page.locator(".json-error").click()
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    area.fill('{"type": "contains", "key": "tags", "value": "guide"}')
    button(page, "Search").click()
    expect(page.locator(".result").first).to_be_visible()
    expect(page.locator(".json-error")).to_have_count(0)


def test_a_key_that_only_reads(watched: Watched, console: Console) -> None:
    page = watched.page
    page.goto(f"{console.url}/console")
    page.locator("input[type=password]").fill("cm_wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("API key is not valid")
    enter(page, console, console.reader, "bots")
    expect(page.locator("tbody tr")).to_have_count(3)
    expect(page.get_by_text("This key can only read.")).to_be_visible()
    expect(button(page, "Register a bot")).to_have_count(0)
    expect(page.get_by_role("link", name="Keys")).to_have_count(0)
    page.goto(f"{console.url}/console#/documents/{console.bot_id}/{console.doc_id}")
    expect(page.locator(".chunks li")).to_have_count(3)
    expect(page.locator(".chunks button")).to_have_count(0)
    page.reload()  # The key was in memory alone.
    expect(page.locator("input[type=password]")).to_be_visible()
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def tab_to(page: Page, name: str) -> None:
    """Presses Tab until the element with this name or text has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate(FOCUSED) == name:
            return
    raise AssertionError(f"Tab does not lead to {name}")


def test_from_an_empty_bot_to_its_deletion_by_keyboard(watched: Watched, console: Console, tmp_path: Path) -> None:
    page = watched.page
    page.goto(f"{console.url}/console#/bots")
    page.locator("input[type=password]").wait_for()
    press(page, "Tab", "Tab", "Tab", "Tab")
    page.keyboard.type(console.operator)
    press(page, "Enter")
    page.locator("tbody tr").first.wait_for()
    press(page, "?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    press(page, "Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)

    press(page, "n")
    page.get_by_role("dialog").wait_for()
    page.keyboard.type("By keyboard")
    press(page, "Enter")
    page.get_by_role("link", name="By keyboard").wait_for()
    tab_to(page, "By keyboard")
    press(page, "Enter")
    expect(page.get_by_text("This bot has no documents yet")).to_be_visible()
    line = {"document": {"title": "Tower", "external_id": "t"}, "chunks": ["A cable car goes up.", "It is free."]}
    file = tmp_path / "tower.ndjson"
    file.write_text(json.dumps(line), encoding="utf-8")
    press(page, "n")
    page.get_by_role("dialog").wait_for()
    with page.expect_file_chooser() as chooser:
        press(page, "Tab", "Enter")
    chooser.value.set_files(file)
    expect(page.get_by_role("dialog").get_by_text("1 of 1 documents")).to_be_visible()
    press(page, "Escape")

    press(page, "g", "s")
    page.get_by_role("searchbox").wait_for()
    press(page, "/")
    page.keyboard.type("Does a cable car go up?")
    press(page, "Enter")
    page.locator(".result").first.wait_for()
    tab_to(page, "Tower")
    press(page, "Enter")
    expect(page.locator(".chunks .found p")).to_have_text("A cable car goes up.")
    tab_to(page, "Edit chunk 0")
    press(page, "Enter")
    page.get_by_role("dialog").wait_for()
    press(page, "ControlOrMeta+a")
    page.keyboard.type("A lift goes up.")
    tab_to(page, "Save")
    press(page, "Enter")
    expect(page.locator(".chunks p").first).to_have_text("A lift goes up.")
    page.locator("main").focus()
    tab_to(page, "Delete")
    press(page, "Enter")
    page.get_by_role("dialog").wait_for()
    tab_to(page, "Delete")
    press(page, "Enter")
    expect(page.get_by_text("This bot has no documents yet")).to_be_visible()

    press(page, "g", "b")
    page.get_by_role("link", name="By keyboard").wait_for()
    tab_to(page, "Delete: By keyboard")
    press(page, "Enter")
    page.get_by_role("dialog").wait_for()
    page.keyboard.type("By keyboard")
    press(page, "Enter")
    expect(page.get_by_role("link", name="By keyboard")).to_have_count(0)
    press(page, "t")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.get_by_label("Language").select_option("ko")
    expect(page.get_by_role("heading", level=1)).to_have_text("봇")
    assert page.evaluate("document.documentElement.lang") == "ko"


def test_questions_are_saved_and_compared_with_the_run_before(
    watched: Watched, console: Console, tmp_path: Path
) -> None:
    page = watched.page
    enter(page, console, console.operator, f"search?bot={console.bot_id}&q=경복궁은 무슨 요일에 쉬나요?")
    lexical = page.get_by_role("region", name="Lexical")
    assert "화요일" in lexical.locator(".passage").first.inner_text()
    button(lexical.locator(".result").first, "Save the question").click()
    expect(button(lexical.locator(".result").first, "Saved")).to_be_disabled()
    page.get_by_role("link", name="Questions").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    file = tmp_path / "questions.jsonl"
    lines = [json.dumps({"question": "When is it closed?", "passage": "open every day"}), "{", '{"question": "a"}']
    file.write_text("\n".join(lines), encoding="utf-8")
    page.locator("main input[type=file]").set_input_files(file)
    expect(page.get_by_role("alert")).to_contain_text("2, 3")
    press(page, "n")
    page.keyboard.type("Which bird is it?")
    press(page, "Tab")
    page.keyboard.type("a magpie")
    press(page, "Tab", "Tab", "Enter")
    expect(page.locator("tbody tr")).to_have_count(3)
    button(page, "Run all").click()
    cells = page.locator("tbody tr").filter(has_text="경복궁은").locator("td.right")
    expect(cells.nth(1)).to_have_text("1")
    expect(page.locator("tbody tr").last.locator("td.right").first).to_have_text("not found")
    expect(page.locator(".recall article").nth(1).locator("b").first).to_have_text(re.compile(r"(33|67) %"))
    # In the run before, the passage came later.
    changed = """name => {
        const content = JSON.parse(localStorage.getItem(name));
        for (const modes of Object.values(content.runs[0].ranks)) modes.lexical = modes.lexical === null ? null : 3;
        localStorage.setItem(name, JSON.stringify(content));
    }"""
    page.evaluate(changed, f"console.questions.{console.bot_id}")
    page.get_by_role("link", name="Health").click()
    page.get_by_role("link", name="Questions").click()
    button(page, "Run all").click()
    expect(cells.nth(1)).to_contain_text("better than in the last run: 3")
    expect(page.locator(".recall article").nth(1)).to_contain_text("▲")
    assert console.operator not in page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})")
    with page.expect_download() as saved:
        button(page, "Save as a file").click()
    assert [json.loads(line)["passage"] for line in saved.value.path().read_text(encoding="utf-8").splitlines()] == [
        "경복궁은 화요일에 문을 닫는다.",
        "open every day",
        "a magpie",
    ]
    for _ in range(3):
        page.locator("tbody .danger").first.click()
    expect(page.get_by_text("No question is saved for this bot")).to_be_visible()


def test_a_filter_as_a_form_and_an_export_that_comes_back(watched: Watched, console: Console, tmp_path: Path) -> None:
    page = watched.page
    enter(page, console, console.operator, f"documents/{console.bot_id}")
    page.locator("tbody tr").first.wait_for()
    page.get_by_text("Values and their numbers").click()
    page.locator(".facets select").select_option("metadata.language")
    page.get_by_role("button", name="ko: 3 documents").click()
    expect(page.locator("tbody tr")).to_have_count(3)
    page.locator(".filter-panel summary").click()
    first = page.get_by_role("group", name="Condition 1")
    expect(first.get_by_label("Value")).to_have_value("ko")
    button(page, "Add a condition").click()
    second = page.get_by_role("group", name="Condition 2")
    second.get_by_label("Field").fill("tags")
    second.get_by_label("Comparison").select_option("gte")
    second.get_by_label("Value").fill("3")
    button(page, "Apply").click()
    expect(second.get_by_role("alert")).to_contain_text("no order")
    expect(first.get_by_role("alert")).to_have_count(0)
    second.get_by_label("Field").fill("title")
    second.get_by_label("Comparison").select_option("starts_with")
    second.get_by_label("Value").fill("경복궁")
    button(page, "Apply").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("tab", name="JSON").click()
    expect(page.locator(".json textarea")).to_have_value(re.compile('"type": "starts_with"'))
    page.locator(".json textarea").fill('{"type": "not", "filter": {"type": "eq", "key": "title", "value": "a"}}')
    page.get_by_role("tab", name="Form").click()
    expect(page.get_by_text("The form cannot show this filter.")).to_be_visible()
    button(page, "Remove the filter").click()
    expect(page.locator("tbody tr")).to_have_count(len(GUIDE))
    with page.expect_download() as exported:
        button(page, "Export").click()
    whole = gzip.decompress(exported.value.path().read_bytes())
    lines = whole.splitlines(keepends=True)
    assert [json.loads(line)["documents"] for line in (lines[0], lines[-1])] == [len(GUIDE)] * 2
    torn = tmp_path / "torn.ndjson"
    torn.write_bytes(b"".join(lines[:-1]))
    for file, text in ((exported.value.path(), "The stores agree."), (torn, "no last line")):
        button(page, "Upload").first.click()
        page.locator("dialog input[type=file]").set_input_files(file)
        expect(page.get_by_role("dialog")).to_contain_text(f"{len(GUIDE)} documents stored, 0 failed")
        expect(page.get_by_role("dialog")).to_contain_text(text)
        press(page, "Escape")
    expect(page.locator("tbody tr")).to_have_count(len(GUIDE))  # Nothing has changed.


def test_an_error_is_found_by_its_request_id(watched: Watched, console: Console) -> None:
    page = watched.page
    body = {"chat_bot_id": console.bot_id}
    headers = {"Authorization": f"Bearer {console.operator}"}
    refused = httpx.post(f"{console.url}/search/query", json=body, headers=headers)
    enter(page, console, console.operator, "health")
    page.get_by_role("searchbox", name="Request").fill(refused.headers["x-request-id"])
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody tr")).to_contain_text("invalid_input")
    page.get_by_role("searchbox", name="Request").fill("unknown")
    expect(page.get_by_text("This server process knows no error of this request.")).to_be_visible()


def test_a_list_asks_once_and_from_its_beginning_in_another_order(watched: Watched, console: Console) -> None:
    page = watched.page
    asked: list[tuple[str, str | None]] = []

    def documents(route: Route) -> None:
        body = route.request.post_data_json
        asked.append((body["sort"], body["cursor"]))
        answer = route.fetch(post_data=json.dumps(body | {"cursor": None})).json()
        route.fulfill(json={**answer, "next_cursor": "2"})

    page.route("**/data/documents/query", documents)
    enter(page, console, console.operator, f"documents/{console.bot_id}")
    expect(page.locator("tbody tr")).to_have_count(len(GUIDE))
    button(page, "Next").click()
    expect(page.locator(".pager")).to_contain_text("51 to")
    page.get_by_label("Order").select_option("title asc")
    expect(page.locator("tbody tr").nth(1)).to_contain_text("경복궁 안내")
    expect(page.locator(".pager")).to_contain_text("1 to 4")
    assert asked == [("created_at", None), ("created_at", "2"), ("title", None)]


def test_long_lists_have_few_rows(watched: Watched, console: Console) -> None:
    page = watched.page

    def bots(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        one = body["bots"][0]
        many = [{**one, "chat_bot_id": f"{number:032x}", "bot_name": f"bot {number}"} for number in range(2_000)]
        route.fulfill(json={**body, "bots": many, "next_cursor": None})

    def document(route: Route) -> None:
        body = route.fetch().json()
        chunks = [{**body["chunks"][0], "chunk_id": number, "chunk_index": number} for number in range(5_000)]
        route.fulfill(json={**body, "chunks": chunks, "chunk_count": 5_000, "next_cursor": None})

    enter(page, console, console.operator, "health")
    page.route("**/data/document/*", document)
    page.goto(f"{console.url}/console#/documents/{console.bot_id}/{console.doc_id}?chunk=4321")
    expect(page.locator(".chunks .found .index")).to_have_text("4321")
    assert page.locator(".chunks li").count() <= MAX_ROWS
    sys.stdout.write(f"long tasks, ms: 5,000 chunks {long_tasks(page)}")
    page.route("**/collection/list*", bots)
    page.route("**/collection/0*", lambda route: route.fulfill(json=NO_COUNTS))
    page.goto(f"{console.url}/console#/bots")
    expect(page.get_by_text("2,000 bots")).to_be_visible()
    assert page.locator("tbody tr").count() <= MAX_ROWS
    sys.stdout.write(f", 2,000 bots {long_tasks(page)}\n")
    page.get_by_label("Find by name, account or id").fill("bot 1999")
    expect(page.locator("tbody tr")).to_have_count(1)

    page.route("**/data/documents/query", lambda route: route.fulfill(json={"documents": [], "next_cursor": None}))
    page.goto(f"{console.url}/console#/search")
    page.get_by_role("searchbox", name="Find a bot").fill("BOT 1999")
    expect(page.locator(".ask option").last).to_have_text("bot 1999")
    assert page.locator(".ask option").count() <= MAX_ROWS

    def keys(route: Route) -> None:
        one = route.fetch().json()["keys"][0]
        route.fulfill(json={"keys": [{**one, "prefix": f"cm_{number:08}"} for number in range(300)]})

    page.route("**/keys", keys)
    page.goto(f"{console.url}/console#/keys")
    expect(page.get_by_text("1 to 50 of 300")).to_be_visible()
    for _ in range(5):
        button(page, "Next").click()
    expect(page.locator("tbody tr").last).to_contain_text("cm_00000000")
    expect(button(page, "Next")).to_be_disabled()
    assert page.locator("tbody tr").count() <= MAX_ROWS


def long_tasks(page: Page) -> list[float]:
    """Milliseconds of each task of over 50 ms while the view is scrolled down and up, and paged. For people to read."""
    page.evaluate(
        """() => {
            window.longTasks = [];
            new PerformanceObserver(list => window.longTasks.push(...list.getEntries().map(one => one.duration)))
                .observe({ entryTypes: ["longtask"] });
        }"""
    )
    page.mouse.move(640, 450)
    for turn in (600,) * 15 + (-600,) * 15:
        page.mouse.wheel(0, turn)
        page.evaluate("() => new Promise(requestAnimationFrame)")
    button(page, "Next").click()
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
    found: list[float] = page.evaluate("window.longTasks")
    return found


def test_chunks_that_do_not_come_are_an_error_and_can_be_asked_for_again(watched: Watched, console: Console) -> None:
    page = watched.page
    first: dict[str, Any] = {}
    refusing = True

    def document(route: Route) -> None:
        if "cursor=" not in route.request.url:
            first.update(route.fetch().json())
        elif refusing:
            route.fulfill(status=422, json={"detail": "not now"})
            return
        start = 1_000 if "cursor=" in route.request.url else 0
        chunks = [{**first["chunks"][0], "chunk_id": one, "chunk_index": one} for one in range(start, start + 1_000)]
        route.fulfill(json={**first, "chunks": chunks, "chunk_count": 2_000, "next_cursor": None if start else "999"})

    enter(page, console, console.operator, "health")
    page.route("**/data/document/*", document)
    page.goto(f"{console.url}/console#/documents/{console.bot_id}/{console.doc_id}?chunk=999")
    expect(page.locator(".chunks .found .index")).to_have_text("999")
    button(page, "Next").click()
    expect(page.get_by_role("alert")).to_contain_text("not now")
    refusing = False
    button(page, "Next").click()
    expect(page.locator(".chunks .index").first).to_have_text("1000")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_server_that_does_not_answer_is_named_and_found_again(browser: Browser, console: Console) -> None:
    watched = Watched(browser, console.url, locale="en-US")
    page = watched.page
    enter(page, console, console.operator, "health")
    expect(page.get_by_text("Everything answers")).to_be_visible()
    page.route("**/health", lambda route: route.abort())
    expect(page.locator(".overall")).to_have_text("The server does not answer")
    page.unroute("**/health")
    expect(page.locator(".overall")).to_have_text("Everything answers")
    page.close()


NO_COUNTS = {"document_count": 0, "chunk_count": 0, "sagas_in_flight": 0, "vector_gc_backlog": 0}
VIEWS = {
    "search": "search?bot={bot}&q=경복궁은 무슨 요일에 쉬나요?",
    "questions": "questions?bot={bot}",
    "bots": "bots",
    "documents": "documents/{bot}",
    "document": "documents/{bot}/{doc}?chunk=1&q=경복궁 화요일",
    "jobs": "jobs",
    "health": "health",
    "keys": "keys",
}
READY = {
    "search": ".result",
    "questions": ".recall b",
    "bots": ".state.ok",
    "documents": "tbody tr",
    "document": ".found",
    "jobs": ".state.succeeded",
    "health": ".cards .big",
    "keys": "tbody tr",
}


@pytest.mark.parametrize(("theme", "width", "locale"), SHOWN)
def test_each_view_is_accessible_and_fits(
    browser: Browser, console: Console, theme: str, width: int, locale: str
) -> None:
    watched = Watched(browser, console.url, viewport={"width": width, "height": 900}, color_scheme=theme, locale=locale)
    page = watched.page
    page.goto(f"{console.url}/console")
    page.locator("input[type=password]").wait_for()
    accessible(page, "key")
    enter(page, console, console.operator)
    page.evaluate("([name, value]) => localStorage.setItem(name, value)", questions_of(console))
    for name, path in VIEWS.items():
        page.goto(f"{console.url}/console#/{path.format(bot=console.bot_id, doc=console.doc_id)}")
        page.locator(READY[name]).first.wait_for()
        accessible(page, name)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, name
        if folder := os.environ.get("SCREENSHOTS"):
            page.screenshot(path=f"{folder}/{name}-{theme}-{width}-{locale[:2]}.png", full_page=width == 400)
    page.close()
    assert watched.other_hosts == {}
    assert watched.errors == []


def questions_of(console: Console) -> list[str]:
    """Of the first bot, with two runs, as the page keeps them."""
    asked = [
        ("경복궁은 무슨 요일에 쉬나요?", "경복궁은 화요일에 문을 닫는다."),
        ("When is it closed?", "New Year's Day"),
    ]
    ranks = ([(1, 2, 1), (1, None, 2)], [(1, 3, 2), (1, 1, 2)])
    runs = [
        {
            "at": f"2026-12-01T09:0{5 - number}:00Z",
            "ranks": {
                question: dict(zip(("dense", "lexical", "hybrid"), of_question, strict=True))
                for (question, _), of_question in zip(asked, run, strict=True)
            },
        }
        for number, run in enumerate(ranks)
    ]
    questions = [{"question": question, "passage": passage} for question, passage in asked]
    return [f"console.questions.{console.bot_id}", json.dumps({"questions": questions, "runs": runs})]


def accessible(page: Page, name: str) -> None:
    page.evaluate(AXE)
    violations = page.evaluate("axe.run().then(found => found.violations)")
    found = [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in violations]
    assert found == [], name


def test_the_page_is_small() -> None:
    files = [path for path in CONSOLE.rglob("*") if path.suffix in (".js", ".css", ".html", ".svg")]
    assert len(files) > 15
    assert sum(len(gzip.compress(path.read_bytes())) for path in files) < MAX_COMPRESSED


def test_both_languages_have_the_same_texts() -> None:
    texts = [
        re.findall(r'^  ("[^"]+"):', (CONSOLE / f"texts-{code}.js").read_text(), re.MULTILINE) for code in ("en", "ko")
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) == len(set(texts[0]))
