"""What can be done to a server process, and the part inside that process that does it."""

import asyncio
import os
import signal
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

from app.core.stores.milvus import MilvusIndex
from app.utils.errors import VectorIndexUnavailable

Kind = Literal["crash", "pause", "delay", "late upsert", "lost upsert"]


@dataclass(frozen=True, slots=True)
class Fault:
    """At the ``nth`` passing of ``point`` (or, for the upserts, of the vector index). ``seconds``: of the delays."""

    kind: Kind
    point: str = ""
    nth: int = 1
    seconds: float = 0.3


class Injector:
    """Does what it is told through ``control``, and says there that it is about to."""

    def __init__(self, control: "Connection[Any, Any]", index: MilvusIndex, armed: Fault | None) -> None:
        self._control = control
        self._upsert = index.upsert
        self._landing: set[asyncio.Task[int]] = set()
        self.arm(armed)
        index.upsert = self._faulty_upsert  # type: ignore[method-assign]
        threading.Thread(target=self._listen, daemon=True).start()

    def arm(self, fault: Fault | None) -> None:
        self._left = fault.nth if fault else 0
        self._fault = fault

    async def hook(self, point: str) -> None:
        """For app.utils.failpoints.install."""
        fault = self._due(point)
        if fault is None:
            return
        if fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
        else:
            self._control.send(("reached", point))
            os.kill(os.getpid(), signal.SIGSTOP if fault.kind == "pause" else signal.SIGKILL)

    async def _faulty_upsert(self, *args: Any, **options: Any) -> int:
        fault = self._due("late upsert") or self._due("lost upsert")
        if fault is None:
            return await self._upsert(*args, **options)
        if fault.kind == "late upsert":
            task = asyncio.create_task(self._land(fault.seconds, *args, **options))
            self._landing.add(task)
            task.add_done_callback(self._landing.discard)
        else:
            await self._upsert(*args, **options)
        raise VectorIndexUnavailable("Milvus did not answer in time.")

    async def _land(self, seconds: float, *args: Any, **options: Any) -> int:
        await asyncio.sleep(seconds)
        return await self._upsert(*args, **options)

    def _due(self, place: str) -> Fault | None:
        fault = self._fault
        if fault is None or place != (fault.point or fault.kind):
            return None
        self._left -= 1
        if self._left:
            return None
        self._fault = None
        return fault

    def _listen(self) -> None:
        try:
            while True:
                self.arm(self._control.recv())
        except EOFError:
            os._exit(1)  # The tester is gone.
