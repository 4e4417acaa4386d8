"""When the present request will be cancelled."""

import asyncio
from contextvars import Context, ContextVar, copy_context
from math import inf

REQUEST_DEADLINE: ContextVar[float] = ContextVar("request_deadline", default=inf)
"""A time of the event loop. Work that several requests share runs without one."""


def without_deadline() -> Context:
    """A copy of the present context for a task that goes on after the request."""
    context = copy_context()
    context.run(REQUEST_DEADLINE.set, inf)
    return context


def seconds_left() -> float:
    """Until the request is cancelled; infinite where there is no request. Not below 0."""
    return max(0.0, REQUEST_DEADLINE.get() - asyncio.get_running_loop().time())
