"""The calls on a server. Each records in the model what its answer promises."""

from typing import Any

import httpx

from tests.chaos.answer_checks import check_document, check_results, check_walk
from tests.chaos.calls import Caller, outcome_of
from tests.chaos.chunk_text import UNEMBEDDABLE
from tests.chaos.model import Bot, Document, Violation, now


class Client(Caller):
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
                    self.settle(of_document, outcome_of(503, result["error"]["code"]))
            return True

        history = new[0][0].history
        await self._write("POST", "/data/insert/batch", ops, history, stored=stored, json=body, **self._key())

    async def replace(self, document: Document) -> None:
        _, ops, body = self._version(document)
        path = f"/data/document/{document.doc_id}"
        await self._write("PUT", path, ops, document.history, json=body, final=(404, 409), **self._key())

    async def upsert(self, document: Document) -> None:
        """A PUT by external_id that replaces, and never creates: the document keeps its doc_id."""
        _, ops, body = self._version(document)
        params, headers = {"external_id": document.external_id}, {"If-Match": "*", **self._key().get("headers", {})}
        options = {"params": params, "json": body, "headers": headers}
        await self._write("PUT", "/data/document", ops, document.history, final=(404, 409, 412), **options)

    async def edit_chunk(self, document: Document) -> None:
        """Reads the document, and replaces, adds or deletes a chunk if it is still the same."""
        start, of_bot = now(), {"chat_bot_id": str(document.bot.bot_id)}
        read = await self._read("GET", f"/data/document/{document.doc_id}", params=of_bot)
        if read is None:
            return
        check_document(document, read, start, now())
        if read.status_code != 200:
            return
        texts = [chunk["text"] for chunk in read.json()["chunks"]]
        base = document.with_texts(texts)[-1]
        number = self.random.randrange(len(texts) + 1)
        path, headers = f"/data/document/{document.doc_id}/chunks", {"If-Match": read.headers["ETag"]}
        if number == len(texts) > 1 and self.random.random() < 0.5:
            version, method, path = document.shortened_version(base), "DELETE", f"{path}/{number - 1}"
            options: dict[str, Any] = {"params": of_bot, "headers": headers}
        else:
            version = document.edited_version(base, number)
            body = {**of_bot, "text": document.versions[version][number]}
            options = {"json": body, "headers": headers | self._key().get("headers", {})}
            method, path = ("POST", path) if number == len(texts) else ("PUT", f"{path}/{number}")
        op = document.content.write(version)
        await self._write(method, path, [op], document.history, final=(404, 409, 412), **options)

    async def synchronize(self, bot: Bot) -> None:
        """A session that has one new document, and so deletes all others that have an external_id."""
        if bot.syncing:
            return
        bot.syncing = True
        try:
            await self._synchronize(bot)
        finally:
            bot.syncing = False

    async def _synchronize(self, bot: Bot) -> None:
        of_bot = {"chat_bot_id": str(bot.bot_id)}
        if bot.session:
            answer = await self._write("DELETE", f"/data/sync/{bot.session}", [], bot.history, params=of_bot)
            if answer is None or answer.status_code not in (200, 404):
                return
            bot.session = None
        before = [one for one in bot.documents.values() if one.external_id]
        stored = [one for one in before if None not in one.content.current()]
        answer = await self._write("POST", "/data/sync", [], bot.history, json=of_bot)
        if answer is None or not answer.is_success:
            return
        bot.session = answer.json()["session_id"]
        during = [one for one in bot.documents.values() if one.external_id and one not in before]
        document, ops, body = self.new(bot)
        document.external_id = body["document"]["external_id"] = f"document {document.label}"

        def done(answer: httpx.Response) -> bool:
            (result,) = answer.json()["results"]
            if result["success"]:
                document.doc_id = result["doc_id"]
            self.settle(ops, "acknowledged" if result["success"] else outcome_of(503, result["error"]["code"]))
            return True

        path, sent = f"/data/sync/{bot.session}/documents", {"documents": [body]}
        answer = await self._write("POST", path, ops, document.history, stored=done, params=of_bot, json=sent)
        if answer is None or not answer.is_success:
            return
        deletes = []
        for one in before + during:
            op = one.content.write(None)
            one.patch.join(op)
            one.history.add("missing in a synchronization")
            if one in stored:
                deletes.append(op)
            else:  # The session may have begun before it was stored.
                op.doubt()
        finish = {**of_bot, "delete_missing": True}
        path = f"/data/sync/{bot.session}/finish"
        answer = await self._write("POST", path, deletes, bot.history, final=(404,), json=finish)
        if answer is not None and answer.is_success:
            bot.session = None

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

        def stored(answer: httpx.Response) -> bool:
            if answer.json()["changed_documents"] == len(documents):
                return False
            self.settle(ops, "doubt")  # Others have deleted some of them, and the answer does not say which.
            return True

        path = "/data/documents/metadata"
        await self._write("PATCH", path, ops, bot.history, stored=stored, json=body, final=(404,))

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
        text = self.random.choice(sought.versions[possible[0]]) if sought and possible else f"{self.random.random()}"
        body = {"chat_bot_id": str(bot.bot_id), "query_text": text, "limit": self.random.choice((1, 5, 20))}
        start = now()
        answer = await self._read("POST", "/search/query", json=body)
        if answer is not None:
            check_results(bot, answer, text, sought, start, now())

    async def warm(self, bot: Bot) -> None:
        answer = await self._read("POST", f"/collection/{bot.bot_id}/warm")
        if answer is not None and answer.status_code not in (200, 202, 404, 409):
            raise Violation(2, f"warming bot {bot.bot_id} was answered with {answer.status_code} {answer.text}")

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


def _among(doc_ids: list[int | None]) -> dict[str, Any]:
    return {"type": "in", "key": "doc_id", "value": doc_ids}
