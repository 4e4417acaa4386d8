"""A stub of an embedding provider with OpenAI's API: ``python -m scripts.benchmarks.stub DELAY_MS`` prints its URL.

Its vectors are hashes, so that an answer takes the delay and little more.
"""

import asyncio
import sys
from base64 import b64encode
from typing import cast

import orjson
import uvloop

from scripts.benchmarks.embedders import hashed


class Handler(asyncio.Protocol):
    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        needed = end + 4 + int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(self._received) < needed:
            return
        body = orjson.loads(self._received[end + 4 : needed])
        del self._received[:needed]
        asyncio.get_running_loop().call_later(self._delay, self._reply, _answer(body["input"]))

    def _reply(self, content: bytes) -> None:
        if not self._transport.is_closing():
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(content)
            self._transport.write(head + content)


def _answer(texts: list[str]) -> bytes:
    data = [
        {"object": "embedding", "index": index, "embedding": b64encode(row.tobytes()).decode()}
        for index, row in enumerate(hashed(texts))
    ]
    return orjson.dumps(
        {"object": "list", "model": "stub", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    )


async def serve(delay: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Handler(delay), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(float(sys.argv[1]) / 1000))
