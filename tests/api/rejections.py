"""What the tests of invalid requests share: a server with one document, and what a rejection must be."""

import copy
import json
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

from app.core.stores.postgres.database import Database
from tests.api.contents import Contents, contents
from tests.conftest import BotClient
from tests.doubles.memory_index import MemoryIndex

TOO_LARGE_FLOAT = "@1e999999@"  # No Python value is written so: replaced in the JSON text.
HUGE = 2**63


@dataclass
class FilledServer:
    """A server that holds one bot with one document. A rejected request leaves ``before``, its contents, as it was."""

    bot: BotClient
    doc_id: int
    db: Database
    index: MemoryIndex
    before: Contents

    @property
    def calls(self) -> dict[str, tuple[str, str, Any]]:
        """Each call that takes a body, with a valid body: {name: (method, URL, body)}."""
        bot_id = str(self.bot.bot_id)
        document = {
            "document": {
                "chat_bot_id": bot_id, "title": "t", "file_path": "p", "file_type": "txt", "author": "a",
                "tags": ["x"], "metadata": {"key": "value"},
            },
            "chunks": [{"chunk_index": 0, "text": "one", "page_number": 1}, {"chunk_index": 1, "text": "two"}],
        }  # fmt: skip
        account = {"account_name": "chatty"}
        changes = {"metadata_updates": {"title": "new", "tags": ["y"], "other": 1}}
        create = {"chat_bot_id": str(uuid4()), "bot_name": "b", "collection_name": f"c_{uuid4().hex}"}
        return {
            "create": ("POST", "/collection/create", account | create | {"dimension": 64}),
            "insert": ("POST", "/data/insert", account | document),
            "batch": ("POST", "/data/insert/batch", account | {"documents": [document]}),
            "put": ("PUT", f"/data/document/{self.doc_id}", account | document),
            "patch": ("PATCH", f"/data/document/{self.doc_id}/metadata", account | {"chat_bot_id": bot_id} | changes),
            "delete": ("POST", "/data/document/delete/batch", account | {"chat_bot_id": bot_id, "doc_ids": [10**9]}),
            "search": ("POST", "/search/query", account | {"chat_bot_id": bot_id, "query_text": "q", "limit": 5}),
            "search_batch": ("POST", "/search/batch", account | {"chat_bot_id": bot_id, "query_texts": ["q", "r"]}),
        }

    async def send(self, call: str, change: Any = None) -> httpx.Response:
        """Sends the call of that name after ``change(body)``."""
        method, url, body = self.calls[call]
        body = copy.deepcopy(body)
        if change:
            change(body)
        text = json.dumps(body).replace(f'"{TOO_LARGE_FLOAT}"', TOO_LARGE_FLOAT.strip("@"))
        return await self.raw(method, url, text.encode())

    async def raw(self, method: str, url: str, content: bytes, type: str = "application/json") -> httpx.Response:
        return await self.bot.http.request(method, url, content=content, headers={"content-type": type})

    async def assert_rejected(self, answer: httpx.Response, loc: str | None, status: int = 422) -> None:
        """The answer is a problem document that names ``loc``, and nothing was stored."""
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["status"] == status
        assert problem["code"]
        assert problem["request_id"] == answer.headers["x-request-id"]
        if loc is not None:
            locs = [error["loc"] for error in problem["errors"]]
            assert any(found == loc or found.startswith(f"{loc}.") for found in locs), locs
        assert await contents(self.db, self.index) == self.before


def put(path: str, value: Any) -> Any:
    """Sets the value at ``path`` in a body, such as ``chunks.0.text``."""
    *steps, last = path.split(".")

    def change(body: Any) -> None:
        for step in steps:
            body = body[int(step)] if isinstance(body, list) else body[step]
        body[int(last) if isinstance(body, list) else last] = value

    return change
