"""FastRoute: a route class whose routes answer plain JSON requests without FastAPI's solver, validator and serializer.

FastAPI resolves dependencies by a recursive function, validates the parsed body as Python objects and validates the
response once more. For a search, or for a batch of documents, that is a large part of the server's own work
(docs/decisions/0010-shortcuts.md has the figures). A FastRoute calls the same dependencies and the same endpoint
directly. Every other request goes to FastAPI's own handler, which also writes the error of each body that is not valid.
"""

import inspect
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, get_type_hints

import orjson
from fastapi import FastAPI, Request, Response, params
from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from typing_extensions import is_typeddict

from app.api.bodies import BUFFERED_BODY
from app.api.deps import insert_body, insert_many_body
from app.api.idempotency import IDEMPOTENCY_KEY, IdempotentResponder, idempotent_responder
from app.models.inserts import Insert, InsertMany

BODY_READERS: dict[Any, Callable[[bytes], object | None]] = {
    insert_body: Insert.read,
    insert_many_body: InsertMany.read,
}
"""Dependencies that read the body: each with a function from the bytes to the same value, or to None for FastAPI."""


class FastRoute(APIRoute):
    """For ``APIRouter(route_class=FastRoute)``. A route that has no ``FastPath`` is an APIRoute like any other."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        fastapi_handler = super().get_route_handler()
        path: FastPath | None = None
        resolved = False

        async def handler(request: Request) -> Response:
            nonlocal path, resolved
            if not resolved:  # Only the application knows the dependencies of the routers that include this one.
                path, resolved = FastPath.of(self, request.app), True
            if path is None or request.app.dependency_overrides:
                return await fastapi_handler(request)
            arguments = await path.parse(request)
            if arguments is None:
                return await fastapi_handler(request)
            return await path.respond(request, arguments)

        return handler


@dataclass(frozen=True, slots=True)
class _Dependency:
    """A dependency that takes the request or nothing. ``name`` is the endpoint's parameter, if it has one for it."""

    name: str | None
    call: Callable[..., Any]
    request_name: str | None
    stack_key: str | None
    """Of an asynchronous generator: where the ASGI scope has the AsyncExitStack with which FastAPI ends it."""


class FastPath:
    """What FastRoute does for one route: its dependencies, how its body is read, its endpoint and its status code."""

    @classmethod
    def of(cls, route: APIRoute, app: FastAPI) -> "FastPath | None":
        """None where only FastAPI's handler does all that the route declares."""
        contexts = [context for context in iter_route_contexts(app.routes) if context.original_route is route]
        if len(contexts) != 1 or not _has_plain_response(contexts[0]):  # A route can be included more than once.
            return None
        endpoint: Dependant = contexts[0].dependant
        body_name, read_body, responder_name = None, None, None
        dependencies: list[_Dependency] = []
        for sub in endpoint.dependencies:
            if sub.call in BODY_READERS and read_body is None:
                body_name, read_body = sub.name, BODY_READERS[sub.call]
            elif sub.call is idempotent_responder and responder_name is None:
                responder_name = sub.name
            elif dependency := _as_dependency(sub):
                dependencies.append(dependency)
            else:
                return None
        if len(endpoint.body_params) == 1 and read_body is None:
            field = endpoint.body_params[0]
            body_name, read_body = field.name, _model_reader(field.field_info)
        elif endpoint.body_params:
            return None
        if read_body is None or body_name is None or _takes_more(endpoint):
            return None
        if len({sub.call for sub in endpoint.dependencies}) < len(endpoint.dependencies):  # FastAPI calls each once.
            return None
        return cls(contexts[0], dependencies, body_name, read_body, responder_name)

    def __init__(
        self,
        context: RouteContext,
        dependencies: Iterable[_Dependency],
        body_name: str,
        read_body: Callable[[bytes], object | None],
        responder_name: str | None,
    ) -> None:
        self._endpoint: Callable[..., Any] = context.dependant.call
        self._status_code: int = context.status_code or 200
        self._dependencies = tuple(dependencies)
        self._body_name = body_name
        self._read_body = read_body
        self._responder_name = responder_name

    async def parse(self, request: Request) -> dict[str, object] | None:
        """The endpoint's arguments that come from the request itself; None if it is no plain JSON, or not valid."""
        content_types: list[bytes] = []
        idempotency_keys: list[bytes] = []
        for name, value in request.scope["headers"]:
            if name == b"content-type":
                content_types.append(value)
            elif name == b"idempotency-key":
                idempotency_keys.append(value)
        if content_types != [b"application/json"]:
            return None
        content: bytes | None = request.scope.get(BUFFERED_BODY)
        if content is None:  # A request without a body, or an application without BodyGuard.
            content = await request.body()
        body = self._read_body(content)
        if body is None:
            return None
        arguments: dict[str, object] = {self._body_name: body}
        if self._responder_name is not None:
            if len(idempotency_keys) > 1 or not all(map(IDEMPOTENCY_KEY.fullmatch, idempotency_keys)):
                return None
            key = idempotency_keys[0].decode("ascii") if idempotency_keys else None
            arguments[self._responder_name] = IdempotentResponder(request, key, content)
        return arguments

    async def respond(self, request: Request, arguments: dict[str, object]) -> Response:
        """Runs the dependencies in FastAPI's order, then the endpoint. Raises what they raise."""
        for dependency in self._dependencies:
            given = {dependency.request_name: request} if dependency.request_name else {}
            if dependency.stack_key is None:
                value = await dependency.call(**given)
            else:
                stack: AsyncExitStack = request.scope[dependency.stack_key]
                value = await stack.enter_async_context(dependency.call(**given))
            if dependency.name is not None:
                arguments[dependency.name] = value
        answer = await self._endpoint(**arguments)
        if isinstance(answer, Response):
            return answer
        return Response(orjson.dumps(answer, option=orjson.OPT_UTC_Z), self._status_code, media_type="application/json")


def _has_plain_response(context: RouteContext) -> bool:
    """Whether the endpoint returns a Response, or a TypedDict whose items are the response as they are."""
    endpoint = context.dependant.call
    if not inspect.iscoroutinefunction(endpoint):
        return False
    returned = get_type_hints(endpoint).get("return")
    if isinstance(returned, type) and issubclass(returned, Response):
        return True
    return (
        is_typeddict(returned)
        and returned is context.response_model
        and isinstance(context.response_class, DefaultPlaceholder)
        and context.response_model_include is None
        and context.response_model_exclude is None
        and context.response_model_by_alias
        and not context.response_model_exclude_unset
        and not context.response_model_exclude_defaults
        and not context.response_model_exclude_none
    )


def _as_dependency(dependant: Dependant) -> _Dependency | None:
    """None for one that takes more than the request, or is neither a coroutine nor an asynchronous generator."""
    call = dependant.call
    more = dependant.dependencies or dependant.body_params or _takes_more(dependant, but="request_param_name")
    if call is None or more or dependant.concurrency is not None or dependant.own_oauth_scopes:
        return None
    function = call if inspect.isroutine(call) else type(call).__call__
    if inspect.isasyncgenfunction(function):
        stack_key = "fastapi_function_astack" if dependant.scope == "function" else "fastapi_inner_astack"
        return _Dependency(dependant.name, asynccontextmanager(call), dependant.request_param_name, stack_key)
    if inspect.iscoroutinefunction(function):
        return _Dependency(dependant.name, call, dependant.request_param_name, None)
    return None


def _takes_more(dependant: Dependant, *, but: str = "") -> bool:
    """Whether it has parameters that are neither the body nor other dependencies."""
    names = (
        "path_params",
        "query_params",
        "header_params",
        "cookie_params",
        "request_param_name",
        "websocket_param_name",
        "http_connection_param_name",
        "response_param_name",
        "background_tasks_param_name",
        "security_scopes_param_name",
    )
    return any(getattr(dependant, name) for name in names if name != but)


def _model_reader(parameter: FieldInfo) -> Callable[[bytes], object | None] | None:
    """Reads JSON into the model of a body parameter; None where the parameter is not a model that is the whole body."""
    model = parameter.annotation
    if type(parameter) is not params.Body or parameter.embed or not isinstance(model, type):
        return None
    if not issubclass(model, BaseModel):
        return None

    def read(content: bytes) -> BaseModel | None:
        try:
            return model.model_validate_json(content)
        except (ValidationError, RecursionError):
            return None

    return read
