"""A shorter way to a handler for requests that are as they should be.

FastAPI compares a request with one route after the other, resolves each dependency by itself, looks at the answer once
more, and wraps all of it in layers for what these handlers do not have. That is much of what a search takes on its way.
"""

from collections.abc import Callable, Iterable
from typing import Any

import orjson
from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.auth import callers_account
from app.api.bodies import replayed
from app.api.deps import admit

JSON = (b"content-type", b"application/json")


class Direct:
    """Plain ASGI, the last before the application. Needs ``services`` and ``limits`` in the lifespan's state.

    For ``routes`` whose handlers take (body, services, account, limits), are admitted and return a TypedDict. Whatever
    is not plain JSON that the body's model takes goes FastAPI's own way, and so gets its errors.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._ways = {
            (method, route.path): Way(route)
            for route in routes
            if isinstance(route, APIRoute)
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        way = self._ways.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if way is None or JSON not in scope["headers"]:
            await self._app(scope, receive, send)
            return
        message = await receive()
        content = message.get("body", b"")
        receive = replayed(message, receive)
        body = None if message.get("more_body", False) else way.read(content)
        if body is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = way.route
        request = Request(scope, receive)
        await admit(request)
        account = await callers_account(request)
        answer = await way.handler(body, scope["state"]["services"], account, scope["state"]["limits"])
        content = orjson.dumps(answer, option=orjson.OPT_UTC_Z)
        headers = [(b"content-length", str(len(content)).encode()), JSON]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


class Way:
    def __init__(self, route: APIRoute) -> None:
        self.route = route
        self.handler: Callable[..., Any] = route.endpoint
        self._body: type[BaseModel] = route.endpoint.__annotations__["body"]

    def read(self, content: bytes) -> BaseModel | None:
        """None if FastAPI should say what is wrong with it."""
        try:
            return self._body.model_validate_json(content)
        except (ValidationError, RecursionError):
            return None
