"""The calls on a server. Each records in the model what its answer promises."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx

from tests.chaos.answer_checks import check_document, check_results, check_walk
from tests.chaos.chunk_text import UNEMBEDDABLE, title
from tests.chaos.model import Bot, Document, History, Op, Violation, now

if TYPE_CHECKING:
    from tests.chaos.parts import Part

UNDONE = {"vector_index_unavailable", "storage_full", "embedder_unavailable", "lease_lost"}
"""Codes of a 503 that mean that nothing of a document was stored. A bot's creation or deletion goes on."""


@dataclass(frozen=True)
class Call:
    """One write. ``final``: more statuses that mean that nothing was done. ``stored`` gets the answer of a success, and
    returns True if it has settled the ops itself."""

    method: str
    path: str
    ops: list[Op]
    history: History
    options: dict[str, Any]
    final: tuple[int, ...] = ()
    stored: Callable[[httpx.Response], bool] = lambda _: False

    @property
    def keyed(self) -> bool:
        return "headers" in self.options


class World:
    """All bots, and the counts for the summary."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.bots: list[Bot] = []
        self.operations = 0
        self.acknowledged = 0
        self.doubts = 0
        self.reads = 0
        self.unanswered: list[Call] = []
        """Calls with an Idempotency-Key that were not answered: they can be sent again."""
        self.cut_parts: list[Part] = []
        """Parts of streams that were not answered, or not to the end."""
        self.sent_again = 0

    def new_bot(self) -> Bot:
        bot_id = UUID(int=self.random.getrandbits(128), version=4)
        bot = Bot(bot_id.hex[:6], bot_id)
        self.bots.append(bot)
        return bot


class Client:
    """The calls of one task. ``gone``: the server died during a call."""

    def __init__(self, world: World, http: httpx.AsyncClient, random: Random) -> None:
        self.world = world
        self.http = http
        self.random = random
        self.gone = False

    # ------------------------------------------------------------------ bots

    async def create_bot(self, bot: Bot) -> bool:
        op = bot.exists.write(True)
        body = {"chat_bot_id": str(bot.bot_id), "bot_name": bot.name, "collection_name": bot.collection}
        answer = await self._write("POST", "/collection/create", [op], bot.history, json=body)
        return answer is not None and answer.is_success

    async def delete_bot(self, bot: Bot) -> None:
        op = bot.exists.write(None)
        bot.deletions.append(op)
        for document in bot.documents.values():
            document.content.join(op)
            document.patch.join(op)
        answer = await self._write("DELETE", f"/collection/{bot.bot_id}", [op], bot.history, final=(404,))
        if answer is not None and answer.status_code == 503 and answer.json()["code"] == "unavailable":
            op.acknowledge()  # The bot is marked as deleted, and recovery does the rest.

    # ------------------------------------------------------------------ documents

    async def insert(self, bot: Bot) -> None:
        document, ops, body = self.new(bot)
        if "external_id" in body["document"]:
            body["on_conflict"] = "replace"

        def stored(answer: httpx.Response) -> bool:
            document.doc_id = answer.json()["doc_id"]
            return False

        await self._write("POST", "/data/insert", ops, document.history, stored=stored, json=body, **self._key())

    async def insert_unembeddable(self, bot: Bot) -> None:
        """An insert that must fail as a whole: none of its chunks may ever be visible."""
        document, ops, body = self.new(bot)
        body["chunks"].append({"chunk_index": len(body["chunks"]), "text": UNEMBEDDABLE})
        answer = await self._write("POST", "/data/insert", ops, document.history, json=body)
        if answer is not None and answer.is_success:
            raise Violation(8, "a chunk without a usable vector was stored", document.history)

    async def batch(self, bots: list[Bot], chunks: int | None = None) -> None:
        """``chunks``: how many each document has; random when None."""
        new = [self.new(bot, chunks) for bot in bots]
        self.world.operations += len(new) - 1
        ops = [op for _, of_document, _ in new for op in of_document]
        body = {"documents": [body for _, _, body in new]}

        def stored(answer: httpx.Response) -> bool:
            for (document, of_document, _), result in zip(new, answer.json()["results"], strict=True):
                document.history.add(f"batch: {result}")
                if result["success"]:
                    document.doc_id = result["doc_id"]
                    self.settle(of_document, "acknowledged")
                else:
                    self.settle(of_document, _outcome(503, result["error"]["code"]))
            return True

        history = new[0][0].history
        await self._write("POST", "/data/insert/batch", ops, history, stored=stored, json=body, **self._key())

    async def replace(self, document: Document) -> None:
        _, ops, body = self._version(document)
        path = f"/data/document/{document.doc_id}"
        await self._write("PUT", path, ops, document.history, json=body, final=(404, 409), **self._key())

    async def patch(self, document: Document) -> None:
        document.patches += 1
        value = f"p{document.patches}"
        body = {"chat_bot_id": str(document.bot.bot_id), "metadata_updates": {"patch": value}}
        path = f"/data/document/{document.doc_id}/metadata"
        op = document.patch.write(value)
        await self._write("PATCH", path, [op], document.history, json=body, final=(404,))

    async def patch_by_filter(self, documents: list[Document]) -> None:
        """Changes what the filter tests."""
        bot, value = documents[0].bot, f"f{self.random.getrandbits(64):x}"
        ops = [document.patch.write(value) for document in documents]
        other = {"type": "ne", "key": "metadata.patch", "value": value}
        body = {
            "chat_bot_id": str(bot.bot_id),
            "filter": {"type": "and", "filters": [_among([document.doc_id for document in documents]), other]},
            "max_documents": len(documents),
            "metadata_updates": {"patch": value},
        }
        for document in documents:
            document.history.add(f"named in a patch by filter: {value}")
        await self._write("PATCH", "/data/documents/metadata", ops, bot.history, json=body, final=(404,))

    async def delete(self, document: Document) -> None:
        op = document.content.write(None)
        document.patch.join(op)
        params = {"chat_bot_id": str(document.bot.bot_id)}
        path = f"/data/document/{document.doc_id}"
        await self._write("DELETE", path, [op], document.history, params=params, final=(404,))

    async def delete_batch(self, documents: list[Document]) -> None:
        ops = []
        for document in documents:
            ops.append(document.content.write(None))
            document.patch.join(ops[-1])
            document.history.add("named in a batch delete")
        bot = documents[0].bot
        doc_ids = [document.doc_id for document in documents]
        path = "/data/document/delete/batch"
        chosen: dict[str, Any] = {"doc_ids": doc_ids}
        if self.random.random() < 0.5:
            path, chosen = "/data/documents/delete", {"filter": _among(doc_ids), "max_documents": len(doc_ids)}
        body = {"chat_bot_id": str(bot.bot_id), **chosen}
        answer = await self._write("POST", path, ops, bot.history, json=body, final=(404,))
        for document in documents:
            document.history.add(f"batch delete: {answer.text if answer is not None else 'no answer'}")

    # ------------------------------------------------------------------ reads

    async def search(self, bot: Bot, sought: Document | None) -> None:
        """Searches for the exact text of a chunk of ``sought``, so that it must be found."""
        possible = [version for version in sought.content.current() if version] if sought else []
        text = self.random.choice(sought.texts(possible[0])) if sought and possible else f"{self.random.random()}"
        body = {"chat_bot_id": str(bot.bot_id), "query_text": text, "limit": self.random.choice((1, 5, 20))}
        start = now()
        answer = await self._read("POST", "/search/query", json=body)
        if answer is not None:
            check_results(bot, answer, text, sought, start, now())

    async def get(self, document: Document) -> None:
        start = now()
        params = {"chat_bot_id": str(document.bot.bot_id)}
        answer = await self._read("GET", f"/data/document/{document.doc_id}", params=params)
        if answer is not None:
            check_document(document, answer, start, now())

    async def walk(self, bot: Bot) -> None:
        """All pages of the bot's documents."""
        start, doc_ids = now(), list[int]()
        body: dict[str, Any] = {
            "chat_bot_id": str(bot.bot_id),
            "sort": self.random.choice(("doc_id", "created_at")),
            "order": self.random.choice(("asc", "desc")),
            "limit": 5,
        }
        while (answer := await self._read("POST", "/data/documents/query", json=body)) is not None:
            if answer.status_code != 200:
                if not bot.exists.saw(None, start, now()):
                    raise Violation(3, f"a page of {bot.history.name} was answered with {answer.text}", bot.history)
                return
            page = answer.json()
            doc_ids += [document["doc_id"] for document in page["documents"]]
            body["cursor"] = page["next_cursor"]
            if body["cursor"] is None:
                check_walk(bot, doc_ids, start, now())
                return

    # ------------------------------------------------------------------ internals

    def new(self, bot: Bot, chunks: int | None = None) -> tuple[Document, list[Op], dict[str, Any]]:
        document = bot.new_document()
        _, ops, body = self._version(document, chunks)
        if self.random.random() < 0.5:
            body["document"]["external_id"] = f"document {document.label}"
        return document, ops, body

    def _version(self, document: Document, chunks: int | None = None) -> tuple[int, list[Op], dict[str, Any]]:
        version = document.new_version(chunks or self.random.choice((1, 2, 3, 5)))
        ops = [document.content.write(version), document.patch.write(f"v{version}")]
        body = {
            "document": {
                "chat_bot_id": str(document.bot.bot_id),
                "title": title(document.label, version),
                "metadata": {"patch": f"v{version}"},
            },
            "chunks": [{"chunk_index": n, "text": text} for n, text in enumerate(document.texts(version))],
        }
        return version, ops, body

    def _key(self) -> dict[str, Any]:
        if self.random.random() < 0.5:
            return {"headers": {"Idempotency-Key": f"{self.random.getrandbits(64):x}"}}
        return {}

    async def _write(
        self,
        method: str,
        path: str,
        ops: list[Op],
        history: History,
        *,
        final: tuple[int, ...] = (),
        stored: Callable[[httpx.Response], bool] = lambda _: False,
        **options: Any,
    ) -> httpx.Response | None:
        self.world.operations += 1
        call = Call(method, path, ops, history, options, final, stored)
        history.add(f"{method} {path} {options.get('json', '')}")
        try:
            answer = await self.http.request(method, path, **options)
        except httpx.TransportError as exc:
            self.gone = True
            self.settle(ops, "doubt")
            history.add(f"no answer ({type(exc).__name__})")
            if call.keyed:
                self.world.unanswered.append(call)
            return None
        self._answered(call, answer)
        return answer

    def _answered(self, call: Call, answer: httpx.Response) -> None:
        call.history.add(f"{answer.status_code} {answer.text}")
        if answer.is_success:
            if not call.stored(answer):
                self.settle(call.ops, "acknowledged")
        elif answer.status_code == 500:
            raise Violation(3, f"{call.method} {call.path} was answered with {answer.text}", call.history)
        elif answer.status_code in call.final:
            self.settle(call.ops, "failed")
        else:
            about_bot = call.path.startswith("/collection")
            self.settle(call.ops, "doubt" if about_bot else _outcome(answer.status_code, answer.json()["code"]))

    async def send_again(self, call: Call) -> None:
        """Repeats a call whose answer was lost, with the same key. It must succeed, and be replayed from then on."""
        call.history.add(f"again {call.method} {call.path} {call.options['headers']}")
        while True:
            answer = await self.http.request(call.method, call.path, **call.options)
            if answer.status_code != 409 or answer.json()["code"] != "request_in_flight":
                break
            await asyncio.sleep(0.05)  # Until recovery has compensated what the dead server had begun.
        self.world.sent_again += 1
        self._answered(call, answer)
        if not answer.is_success:
            return
        once_more = await self.http.request(call.method, call.path, **call.options)
        if once_more.content != answer.content or once_more.headers.get("Idempotency-Replayed") != "true":
            raise Violation(6, f"one key, two answers: {answer.text} and {once_more.text}", call.history)
        options = call.options | {"json": _another(call.options["json"])}
        other = await self.http.request(call.method, call.path, **options)
        if other.status_code != 422 or other.json()["code"] != "idempotency_key_reused":
            raise Violation(6, f"another body under a used key: {other.status_code} {other.text}", call.history)

    async def _read(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        self.world.reads += 1
        try:
            answer = await self.http.request(method, path, **options)
        except httpx.TransportError:
            self.gone = True
            return None
        if answer.status_code == 500:
            raise Violation(2, f"{method} {path} was answered with {answer.text}")
        return answer if answer.status_code != 503 else None

    def settle(self, ops: list[Op], outcome: str) -> None:
        if outcome == "acknowledged":
            self.world.acknowledged += 1
        elif outcome == "doubt":
            self.world.doubts += 1
        for op in ops:
            {"acknowledged": op.acknowledge, "doubt": op.doubt, "failed": op.fail}[outcome]()


def _among(doc_ids: list[int | None]) -> dict[str, Any]:
    return {"type": "in", "key": "doc_id", "value": doc_ids}


def _outcome(status: int, code: str) -> str:
    """What an answer with an error means for a document's write."""
    return "doubt" if status >= 500 and code not in UNDONE and code != "embedding_invalid" else "failed"


def _another(body: dict[str, Any]) -> dict[str, Any]:
    if "documents" in body:
        return body | {"documents": body["documents"] * 2}
    return body | {"chunks": [*body["chunks"], {"chunk_index": 99, "text": "another"}]}
