"""Calls that come while others of their kind are at work are carried out together."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
R = TypeVar("R")

MAX_BATCH = 32


class RequestCoalescer(Generic[K, T, R]):
    """``run(key, items)`` does the work of several calls and returns a result for each, in their order.

    While fewer than ``lanes`` runs of a key are at work, a call begins at once: one caller alone never waits. What
    comes meanwhile begins when one of them ends, all of it together, MOST calls at a time. So every run begins after
    its calls, and reads nothing older than they may see.
    """

    def __init__(self, run: Callable[[K, Sequence[T]], Awaitable[Sequence[R]]], lanes: int = 1) -> None:
        self._lanes = lanes
        self._run = run
        self._running: dict[K, int] = {}
        self._waiting: dict[K, deque[tuple[T, asyncio.Future[R]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, key: K, item: T) -> R:
        """Raises what ``run`` raises. Who is cancelled leaves the others alone."""
        if self._running.get(key, 0) >= self._lanes:
            future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(key, deque()).append((item, future))
            return await future
        self._running[key] = self._running.get(key, 0) + 1
        try:
            return (await self._run(key, (item,)))[0]
        finally:
            self._end(key)

    def _end(self, key: K) -> None:
        """Hands the lane on to those who wait, or gives it back."""
        waiting = self._waiting.get(key)
        calls: list[tuple[T, asyncio.Future[R]]] = []
        while waiting and len(calls) < MAX_BATCH:
            call = waiting.popleft()
            if not call[1].done():  # Cancelled meanwhile.
                calls.append(call)
        if waiting is not None and not waiting:
            del self._waiting[key]
        if calls:
            # In a context of its own: it belongs to none of the requests.
            task = asyncio.get_running_loop().create_task(self._run_all(key, calls), context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif self._running[key] == 1:
            del self._running[key]
        else:
            self._running[key] -= 1

    async def _run_all(self, key: K, calls: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._run(key, [item for item, _ in calls])
        except BaseException as exc:
            for _, future in calls:
                if not future.done():
                    future.set_exception(exc) if isinstance(exc, Exception) else future.cancel()
            if not isinstance(exc, Exception):
                raise
        else:
            for (_, future), result in zip(calls, results, strict=True):
                if not future.done():
                    future.set_result(result)
        finally:
            self._end(key)
