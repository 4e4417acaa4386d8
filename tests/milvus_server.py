"""A Milvus server for tests, benchmarks and crash tests: the standalone 2.3.5 of the PyPI package ``milvus``.

``MilvusServer(folder)`` can be started, stopped, paused and killed, again and again, on the same folder
and ports. The package's own ``default_server`` is not used: it changes the working directory, leaves the
server running when its parent is killed, and lets only one server live on a machine (the ports of the
embedded etcd are fixed).

The server listens on every address; nothing in its settings binds it to the loopback interface. It has no
password, so run it on trusted networks only.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import milvus
from pymilvus import MilvusClient, MilvusException

_START_SECONDS = 90.0
_LAUNCH = """
import ctypes, os, signal, sys
parent, user, *command = sys.argv[1:]
if user:
    os.setuid(int(user))  # Before prctl: a change of the user clears the signal.
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
if os.getppid() == int(parent):  # else the parent ended before prctl
    os.execv(command[0], command)
"""
_ETCD_CONFIG = """\
name: default
data-dir: {base}/data/etcd.data
listen-client-urls: http://127.0.0.1:{client}
advertise-client-urls: http://127.0.0.1:{client}
listen-peer-urls: http://127.0.0.1:{peer}
initial-advertise-peer-urls: http://127.0.0.1:{peer}
initial-cluster: default=http://127.0.0.1:{peer}
"""
_claims: list[int] = []
"""Descriptors of the ports that are reserved for this process."""
# Without a setting, each coordinator and node announces the address of the first network interface.
_ROLES = ("rootCoord", "proxy", "queryCoord", "queryNode", "indexNode", "dataCoord", "dataNode")


class MilvusServer:
    """One server process on ``base_dir``. ``start`` returns when it answers; the process dies with its parent.

    ``settings`` change entries of its milvus.yaml, such as ``{"proxy.timeTickInterval": 50}``. ``client_options`` are
    what a client needs for access, such as a token.

    Start it from the main thread: Linux sends the parent-death signal when the *thread* that forked ends.
    """

    def __init__(
        self,
        base_dir: Path,
        settings: Mapping[str, int | bool | str] | None = None,
        *,
        scheme: str = "http",
        client_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.base_dir = base_dir.absolute()
        self._process: subprocess.Popen[bytes] | None = None
        self._scheme = scheme
        self._client_options = dict(client_options or {})
        config = milvus.MilvusServerConfig(data_dir=str(self.base_dir))
        names = [name for name in config.configurable_items if name.endswith("_port")]
        ports = free_ports(len(names) + 3)
        for name, port in zip(names, ports, strict=False):
            config.set(name, port)
        for role in _ROLES:
            config.set(f"{role}.ip", "127.0.0.1")
        for key, value in (settings or {}).items():
            config.set(key, json.dumps(value))
        self._config = config
        self._etcd_client_port, self._etcd_peer_port, self._health_port = ports[-3:]

    @property
    def uri(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._config.get('proxy_port')}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        """Starts the server on what ``base_dir`` holds and waits until it answers, 8 to 15 seconds."""
        assert self._process is None, "already started"
        self._config.resolve_storage()
        self._config.write_config()
        milvus._initialize_data_files(str(self.base_dir))  # unpacks the binaries, once for each base_dir
        etcd_config = self.base_dir / "configs" / "etcd.yaml"
        etcd_config.write_text(
            _ETCD_CONFIG.format(base=self.base_dir, client=self._etcd_client_port, peer=self._etcd_peer_port)
        )
        binary = self.base_dir / "bin" / "milvus"
        env = os.environ | {
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self._health_port),
            "MILVUS_RUN_DIR": str(self.base_dir / "run"),
            "LD_LIBRARY_PATH": f"{binary.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}",
            "ETCD_CONFIG_PATH": str(etcd_config),
        }
        with (self.base_dir / "logs" / "milvus.log").open("ab") as log:
            self._process = subprocess.Popen(
                mortal([str(binary), "run", "standalone"]),
                cwd=self.base_dir,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Asks the server to end, then kills it: it would drain for half an hour."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """SIGKILL, as a crash would. Data acknowledged before must survive."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """SIGSTOP: the server keeps its connections and does not answer."""
        pause(self.pid)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not (self._healthy() and self._answers()):
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"Milvus ended while starting; see {self.base_dir}/logs/milvus.log")
            if time.monotonic() > deadline:
                raise TimeoutError(f"Milvus did not start within {_START_SECONDS:.0f} s; see {self.base_dir}/logs")
            time.sleep(0.1)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._health_port}/healthz", timeout=5) as response:
                return b"OK" in response.read()
        except OSError:
            return False

    def _answers(self) -> bool:
        """Health turns OK a moment before every coordinator accepts requests."""
        try:
            client = MilvusClient(self.uri, timeout=5, dedicated=True, **self._client_options)
        except MilvusException:
            return False
        try:
            client.list_collections(timeout=2)
        except MilvusException:
            return False
        finally:
            client.close()
        return True

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def pause(pid: int) -> None:
    """Sends SIGSTOP and returns when every thread of the process has stopped."""
    os.kill(pid, signal.SIGSTOP)
    # The state is the first field after the command's name, which is in parentheses.
    while any(
        stat.read_text().rpartition(")")[2].split()[0] != "T" for stat in Path(f"/proc/{pid}/task").glob("*/stat")
    ):
        time.sleep(0.001)


def free_ports(count: int) -> list[int]:
    """Free ports below the range that Linux uses for outgoing connections, so that they are free after a restart too.

    They are reserved while this process lives. Milvus takes seconds until it listens on its dozen ports, and two
    servers that start at the same time could otherwise share one.
    """
    ports: list[int] = []
    for port in random.sample(range(12000, 32000), 20000):
        # Only one process can bind this name, and it is freed when the process ends.
        claim = socket.socket(socket.AF_UNIX)
        with socket.socket() as probe:
            try:
                claim.bind(f"\0chat-memory-tests-port-{port}")
                probe.bind(("", port))
            except OSError:
                claim.close()
                continue
        _claims.append(claim.detach())
        ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError("no free ports")


def mortal(command: list[str], user: int | None = None) -> list[str]:
    """The command, which is killed when this process ends, however it ends. Linux only. ``user``: id that it runs as.

    A launcher requests the signal and becomes the command. ``preexec_fn`` would run Python between fork and exec, which
    can hang in a process with threads such as gRPC's.
    """
    return [sys.executable, "-c", _LAUNCH, str(os.getpid()), "" if user is None else str(user), *command]
