"""Coalesces concurrent calls with the same key into one batched call (micro-batching)."""

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
    """``run(key, items)`` serves several calls at once and returns one result for each item, in order.

    At most ``max_concurrency`` runs of a key execute at a time. Below that limit a call starts at once, so a single
    caller never waits. At the limit calls queue up. When a run ends, the next run takes up to MAX_BATCH queued calls.
    A run always starts after its calls were made, so it reads nothing older than they may see.
    """

    def __init__(self, run: Callable[[K, Sequence[T]], Awaitable[Sequence[R]]], max_concurrency: int = 1) -> None:
        self._max_concurrency = max_concurrency
        self._run = run
        self._running: dict[K, int] = {}
        self._waiting: dict[K, deque[tuple[T, asyncio.Future[R]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, key: K, item: T) -> R:
        """The item's result. Raises what ``run`` raises. A cancelled caller does not disturb the others."""
        running = self._running.get(key, 0)
        if running >= self._max_concurrency:
            future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(key, deque()).append((item, future))
            return await future
        self._running[key] = running + 1
        try:
            return (await self._run(key, (item,)))[0]
        finally:
            self._finish_run(key)

    def _finish_run(self, key: K) -> None:
        """Starts the next run with the queued calls, or lowers the number of running ones."""
        waiting = self._waiting.get(key)
        calls: list[tuple[T, asyncio.Future[R]]] = []
        while waiting and len(calls) < MAX_BATCH:
            call = waiting.popleft()
            if not call[1].done():  # A cancelled caller's future is done.
                calls.append(call)
        if waiting is not None and not waiting:
            del self._waiting[key]
        if calls:
            # In an empty context, because the run belongs to several requests.
            task = asyncio.get_running_loop().create_task(self._run_batch(key, calls), context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif self._running[key] == 1:
            del self._running[key]
        else:
            self._running[key] -= 1

    async def _run_batch(self, key: K, calls: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
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
            self._finish_run(key)
