"""Faults of a server process, and the injector inside that process."""

import asyncio
import os
import signal
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

from app.core.stores.milvus.index import MilvusIndex
from app.utils.errors import VectorIndexUnavailable

Kind = Literal["crash", "pause", "delay", "late upsert", "lost upsert"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Happens when ``point`` is passed for the ``nth`` time; the upserts count calls of the vector index instead.

    ``seconds`` is the length of a delay. None means: until the tester resumes it (delay), or until the collector has
    deleted the keys and ended (late upsert). Then the fault hits the gap it is meant for on every machine.
    """

    kind: Kind
    point: str = ""
    nth: int = 1
    seconds: float | None = 0.3


RESUME: Literal["resume"] = "resume"
"""Sent to a server to end a delay without ``seconds``."""


class FaultInjector:
    """Injects the faults that arrive through ``control``, and reports there when one is about to happen."""

    def __init__(self, control: "Connection[Any, Any]", index: MilvusIndex, armed: Fault | None) -> None:
        self._control = control
        self._upsert, self._delete = index.upsert, index.delete
        self._landing: set[asyncio.Task[None]] = set()
        self._deleted: set[int] = set()
        self._collected = asyncio.Event()
        self._resumed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.arm(armed)
        index.upsert = self._faulty_upsert  # type: ignore[method-assign]
        index.delete = self._watched_delete  # type: ignore[method-assign]
        threading.Thread(target=self._listen, daemon=True).start()

    def arm(self, fault: Fault | None) -> None:
        self._left = fault.nth if fault else 0
        self._fault = fault

    async def hook(self, point: str) -> None:
        """For app.utils.failpoints.install."""
        if point == "gc.after_end":
            self._collected.set()
        fault = self._due(point)
        if fault is None:
            return
        if fault.kind == "delay" and fault.seconds is None:
            self._control.send(("reached", point))
            await self._resumed.wait()
        elif fault.kind == "delay":
            await asyncio.sleep(fault.seconds or 0)
        else:
            self._control.send(("reached", point))
            os.kill(os.getpid(), signal.SIGSTOP if fault.kind == "pause" else signal.SIGKILL)

    async def _faulty_upsert(self, *args: Any, **options: Any) -> int:
        fault = self._due("late upsert") or self._due("lost upsert")
        if fault is None:
            return await self._upsert(*args, **options)
        if fault.kind == "late upsert":
            task = asyncio.create_task(self._write_late(fault.seconds, *args, **options))
            self._landing.add(task)
            task.add_done_callback(self._landing.discard)
        else:
            await self._upsert(*args, **options)
        raise VectorIndexUnavailable("Milvus did not answer in time.")

    async def _write_late(
        self, seconds: float | None, collection: str, chunk_ids: Any, *args: Any, **options: Any
    ) -> None:
        if seconds is not None:
            await asyncio.sleep(seconds)
        while seconds is None and not self._deleted.issuperset(map(int, chunk_ids)):
            self._collected.clear()
            await self._collected.wait()
        await self._upsert(collection, chunk_ids, *args, **options)
        self._control.send(("reached", "late upsert"))

    async def _watched_delete(self, collection: str, chunk_ids: Any) -> None:
        await self._delete(collection, chunk_ids)
        self._deleted.update(map(int, chunk_ids))

    def _due(self, point: str) -> Fault | None:
        fault = self._fault
        if fault is None or point != (fault.point or fault.kind):
            return None
        self._left -= 1
        if self._left:
            return None
        self._fault = None
        return fault

    def _listen(self) -> None:
        try:
            while True:
                message = self._control.recv()
                if message == RESUME:
                    self._loop.call_soon_threadsafe(self._resumed.set)
                else:
                    self.arm(message)
        except EOFError:
            os._exit(1)  # The tester has ended.
