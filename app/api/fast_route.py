"""A shorter way to a handler for requests that are as they should be.

FastAPI compares a request with one route after the other, resolves each dependency by itself, looks at the answer once
more, and wraps all of it in layers for what these handlers do not have. That is much of what a search takes on its way,
and reading a body into models is much of what a batch of documents does.
"""

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any, get_type_hints

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.auth import callers_account
from app.api.bodies import replayed
from app.api.deps import Admission, admission_of
from app.api.idempotency import KEY_CHARS, VISIBLE, IdempotentResponder
from app.models.inserts import Insert, InsertMany

KEY = re.compile(f"{VISIBLE}{{1,{KEY_CHARS}}}")
PARAMETERS = ["body", "services", "account", "limits"]
JSON = (b"content-type", b"application/json")


class FastRoutes:
    """Plain ASGI, the last before the application. Needs ``services`` and ``limits`` in the lifespan's state.

    For those of ``routes`` that declare a scope and whose handlers take what a FastPath gives. What is not plain JSON
    that can be read into the body goes FastAPI's own way, and so gets its errors.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._ways = {
            (method, route.path): way
            for route in routes
            if isinstance(route, APIRoute) and (way := FastPath.to(route))
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
        request = Request(scope, receive)
        keys = request.headers.getlist("idempotency-key") if way.answers_once else []
        if body is None or len(keys) > 1 or (keys and not KEY.fullmatch(keys[0])):
            await self._app(scope, receive, send)
            return
        scope["route"] = way.route
        async with way.admission.admitted(request):
            state = scope["state"]
            arguments = [body, state["services"], await callers_account(request), state["limits"]]
            if way.answers_once:
                arguments.append(IdempotentResponder(request, keys[0] if keys else None, content))
            answer = await way.handler(*arguments)
            if isinstance(answer, Response):
                await answer(scope, receive, send)
                return
            content = orjson.dumps(answer, option=orjson.OPT_UTC_Z)
            headers = [(b"content-length", str(len(content)).encode()), JSON]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": content})


class FastPath:
    """To a handler that takes (body, services, account, limits) and returns a TypedDict, or takes answering as well and
    returns that one's Response.
    """

    @classmethod
    def to(cls, route: APIRoute) -> "FastPath | None":
        parameters = list(inspect.signature(route.endpoint).parameters)
        admission = admission_of(route)
        if admission is None or parameters[:4] != PARAMETERS or not set(parameters[4:]) <= {"answering"}:
            return None
        return cls(route, parameters, admission)

    def __init__(self, route: APIRoute, parameters: list[str], admission: Admission) -> None:
        self.route = route
        self.admission = admission
        self.handler: Callable[..., Any] = route.endpoint
        self.answers_once = len(parameters) > len(PARAMETERS)
        self._body: type[BaseModel | Insert | InsertMany] = get_type_hints(route.endpoint)["body"]

    def read(self, content: bytes) -> BaseModel | Insert | InsertMany | None:
        """None if FastAPI should say what is wrong with it."""
        if not issubclass(self._body, BaseModel):
            return self._body.read(content)
        try:
            return self._body.model_validate_json(content)
        except (ValidationError, RecursionError):
            return None
