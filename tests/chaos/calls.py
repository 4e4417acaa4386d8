"""One call on a server, and what its answer settles in the model."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx

from tests.chaos.model import Bot, Document, History, Op, Violation

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
        return "Idempotency-Key" in self.options.get("headers", {})


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
        self.whole_exports = 0

    def new_bot(self) -> Bot:
        bot_id = UUID(int=self.random.getrandbits(128), version=4)
        bot = Bot(bot_id.hex[:6], bot_id)
        self.bots.append(bot)
        return bot


class Caller:
    """Sends the calls of one task. ``gone``: the server died during a call."""

    def __init__(self, world: World, http: httpx.AsyncClient, random: Random) -> None:
        self.world = world
        self.http = http
        self.random = random
        self.gone = False

    def new(self, bot: Bot, chunks: int | None = None) -> tuple[Document, list[Op], dict[str, Any]]:
        document = bot.new_document()
        _, ops, body = self._version(document, chunks)
        if self.random.random() < 0.5:
            document.external_id = body["document"]["external_id"] = f"document {document.label}"
        return document, ops, body

    def _version(self, document: Document, chunks: int | None = None) -> tuple[int, list[Op], dict[str, Any]]:
        version = document.new_version(chunks or self.random.choice((1, 2, 3, 5)))
        ops = [document.content.write(version), document.patch.write(f"v{version}")]
        body = {
            "document": {
                "chat_bot_id": str(document.bot.bot_id),
                "title": document.titles[version],
                "metadata": {"patch": f"v{version}"},
            },
            "chunks": [{"chunk_index": n, "text": text} for n, text in enumerate(document.versions[version])],
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
            self.settle(call.ops, "doubt" if about_bot else outcome_of(answer.status_code, answer.json()["code"]))

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


def outcome_of(status: int, code: str) -> str:
    """What an answer with an error means for a document's write."""
    return "doubt" if status >= 500 and code not in UNDONE and code != "embedding_invalid" else "failed"


def _another(body: dict[str, Any]) -> dict[str, Any]:
    if "documents" in body:
        return body | {"documents": body["documents"] * 2}
    if "text" in body:
        return body | {"text": "another"}
    return body | {"chunks": [*body["chunks"], {"chunk_index": 99, "text": "another"}]}
