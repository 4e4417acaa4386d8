"""An event loop on virtual time: it never waits, and runs the same callbacks in the same order in every run."""

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from typing import Any, Protocol
from weakref import WeakSet


class Owner(Protocol):
    """A simulated process. What runs in its context stops when the process dies or is paused."""

    dead: bool
    paused: bool
    held: "list[asyncio.Handle]"
    tasks: "WeakSet[asyncio.Task[Any]]"


OWNER: ContextVar[Owner | None] = ContextVar("owner", default=None)
OUTSIDE = Context()
"""The context of code outside of the processes: the stores, clients and faults."""
OUTSIDE.run(OWNER.set, None)


class OwnedFuture(asyncio.Future[Any]):
    """A future that knows its process."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.owner = OWNER.get()


class OwnedTask(asyncio.Task[Any]):
    def __init__(self, coro: Coroutine[Any, Any, Any], owner: Owner | None, **options: Any) -> None:
        super().__init__(coro, **options)
        self.owner = owner
        self._log_destroy_pending = False  # Tasks of a crashed process never end.
        if owner is not None:
            owner.tasks.add(self)


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs callbacks first in, first out, as asyncio promises. When none is left, the clock jumps to the next timer.

    Callbacks of a dead process never run (as after kill -9: no ``finally``, no handler). Those of a paused process run
    when it is resumed (as after SIGSTOP).
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._count = 0
        self.failures: list[dict[str, Any]] = []

    def run_until(self, done: Callable[[], bool], deadline: float) -> bool:
        """Runs until ``done()``, or until the clock would pass ``deadline``. Returns whether it is done."""
        with self._running():
            while not done():
                if self._ready:
                    self._run(self._ready.popleft())
                elif self._timers and self._timers[0][0] <= deadline:
                    when, _, timer = heapq.heappop(self._timers)
                    self._now = max(self._now, when)
                    if not timer.cancelled():
                        self._run(timer)
                else:
                    self._now = max(self._now, deadline)
                    return False
        return True

    def _run(self, handle: asyncio.Handle) -> None:
        if handle.cancelled():
            return
        owner = handle._context.get(OWNER)
        if owner is not None:
            if owner.dead:
                return
            if owner.paused:
                owner.held.append(handle)
                return
        handle._run()

    @contextmanager
    def _running(self) -> Iterator[None]:
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            yield
        finally:
            events._set_running_loop(before)

    def resume(self, handles: list[asyncio.Handle]) -> None:
        self._ready.extend(handles)
        handles.clear()

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, timer))
        return timer

    def create_future(self) -> asyncio.Future[Any]:
        return OwnedFuture(self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        owner = OWNER.get()
        if context is not None:
            if OWNER not in context:  # A new context, of the process itself and not of a request.
                context.run(OWNER.set, owner)
            owner = context[OWNER]
        return OwnedTask(coro, owner, loop=self, name=name or "", context=context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are skipped when they are due."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Collects errors that were never retrieved, except those of dead processes."""
        owner = getattr(context.get("future") or context.get("task"), "owner", None)
        if owner is None or not owner.dead:
            self.failures.append(context)
