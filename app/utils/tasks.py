"""Helpers for asyncio tasks."""

import asyncio
from typing import Any


def cancel_quietly(task: "asyncio.Future[Any]") -> None:
    """Cancels a task whose result and error are no longer needed."""
    if task.done():
        _retrieve_exception(task)
        return
    task.add_done_callback(_retrieve_exception)
    task.cancel()


def _retrieve_exception(task: "asyncio.Future[Any]") -> None:
    """asyncio logs the exception of a task if it was never retrieved."""
    if not task.cancelled():
        task.exception()
