"""A listening socket stops handshakes and is closed."""

import asyncio
import socket
import sys

import pytest

from app.api.listener import close_listener, stop_handshakes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has socket filters")


def listening() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    return listener


def test_closing_keeps_connections_and_refuses_new_ones() -> None:
    with listening() as listener, socket.socket() as early, socket.socket() as late:
        early.connect(listener.getsockname())
        assert stop_handshakes([listener])
        late.settimeout(0.2)
        with pytest.raises(TimeoutError):
            late.connect(listener.getsockname())
        accepted, _ = listener.accept()
        early.sendall(b"question")
        with accepted:
            accepted.settimeout(5)
            assert accepted.recv(8) == b"question"
        with pytest.raises(BlockingIOError):
            listener.accept()


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]


@pytest.mark.parametrize("shared", [False, True])
async def test_queued_connections_are_served_when_the_port_closes(shared: bool) -> None:
    """``shared``: the socket stays open for its other holder."""
    loop = asyncio.get_running_loop()
    listener = listening()
    other = listener.dup()
    server = await loop.create_server(Echo, sock=listener, start_serving=False)
    listener.listen()
    address = other.getsockname()
    with other, socket.socket() as early:
        early.connect(address)
        await close_listener(server, Echo, shared=shared)
        early.setblocking(False)
        await loop.sock_sendall(early, b"question")
        assert await asyncio.wait_for(loop.sock_recv(early, 8), 5) == b"question"
        with socket.socket() as late:
            late.settimeout(0.2)
            if shared:
                late.connect(address)
                return
            with pytest.raises(TimeoutError):
                late.connect(address)
    with socket.socket() as late, pytest.raises(ConnectionRefusedError):
        late.connect(address)
