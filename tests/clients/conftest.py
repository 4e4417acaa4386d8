"""One server process with API keys, on embedded stores, for all clients of this folder."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import httpx
import pytest

from scripts.own_server import own_folder, own_key, server_in

ACCOUNT, OTHER_ACCOUNT = "mine", "theirs"


@dataclass(frozen=True, slots=True)
class Platform:
    """A running server, and keys of two accounts."""

    address: str
    write_key: str
    read_key: str
    other_key: str
    clients: list[httpx.Client] = field(default_factory=list)

    def http(self, key: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key or self.write_key}"}
        self.clients.append(httpx.Client(base_url=self.address, timeout=30, headers=headers))
        return self.clients[-1]


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    with own_folder() as folder:
        keys = [
            own_key(folder, account, scope)
            for account, scope in ((ACCOUNT, "write"), (ACCOUNT, "read"), (OTHER_ACCOUNT, "write"))
        ]
        with server_in(folder, AUTH_DISABLED="false", MAX_BODY_BYTES="1000000") as address:
            opened = Platform(address, *keys)
            yield opened
            for client in opened.clients:
                client.close()


@pytest.fixture(scope="session")
def http(platform: Platform) -> httpx.Client:
    return platform.http()


def new_bot(http: httpx.Client, name: str = "bot", bot_id: UUID | None = None) -> str:
    bot = str(bot_id or uuid4())
    body = {"chat_bot_id": bot, "bot_name": name, "collection_name": f"c_{bot.replace('-', '')}"}
    assert http.post("/collection/create", json=body).status_code == 201
    return bot


def new_document(http: httpx.Client, bot: str, *texts: str, title: str = "title", **fields: object) -> int:
    chunks = [{"chunk_index": number, "text": text} for number, text in enumerate(texts)]
    body = {"document": {"chat_bot_id": bot, "title": title, **fields}, "chunks": chunks}
    answer = http.post("/data/insert", json=body)
    assert answer.status_code == 201, answer.text
    doc_id: int = answer.json()["doc_id"]
    return doc_id


@pytest.fixture
def bot(http: httpx.Client) -> str:
    return new_bot(http)
