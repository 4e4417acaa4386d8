"""Tasks that are left behind."""

import asyncio
from typing import Any


def cancel_quietly(task: "asyncio.Future[Any]") -> None:
    """Cancels a task whose outcome nobody wants any more, its error neither."""
    if task.done():
        _look_at_error(task)
        return
    task.add_done_callback(_look_at_error)
    task.cancel()


def _look_at_error(task: "asyncio.Future[Any]") -> None:
    """asyncio complains of an error that nobody has looked at."""
    if not task.cancelled():
        task.exception()
