"""FastRoute gives the same responses as FastAPI's own handler, honours the same declarations, and is really used."""

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, NamedTuple

import fastapi.routing
import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import TypedDict

from app.api import data, search
from app.api.deps import Admission
from app.api.fast_route import FastPath, FastRoute
from app.config import Settings
from app.core.services import Services
from app.main import create_app
from tests.conftest import BotClient, _with_state, register

OTHER = b"0f0e0d0c-0b0a-4908-8706-050403020100"
SENT_ID = "00000000-test"
FAST_ROUTES = ["/search/query", "/search/batch", "/data/insert", "/data/insert/batch"]


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests for which FastAPI's own handler resolved the dependencies."""
    paths = []
    solve_dependencies = fastapi.routing.solve_dependencies  # type: ignore[attr-defined]

    async def spy(*, request: Request, **arguments: Any) -> Any:
        paths.append(request.url.path)
        return await solve_dependencies(request=request, **arguments)

    monkeypatch.setattr(fastapi.routing, "solve_dependencies", spy)
    return paths


def use_fastapi(app: FastAPI) -> FastAPI:
    """With any override FastRoute leaves all requests to FastAPI's own handler."""
    app.dependency_overrides[use_fastapi] = use_fastapi
    return app


class Clients(NamedTuple):
    """The same services behind two applications: one with FastRoute's fast path and one without."""

    fast: httpx.AsyncClient
    fastapi: httpx.AsyncClient


@pytest.fixture
async def clients(services: Services) -> AsyncIterator[Clients]:
    @asynccontextmanager
    async def given() -> AsyncIterator[Services]:
        yield services

    async with AsyncExitStack() as stack:
        opened = []
        for prepare in (lambda app: app, use_fastapi):
            app = prepare(create_app(Settings(_env_file=None, auth_disabled=True), services=given()))
            state = await stack.enter_async_context(app.router.lifespan_context(app))
            opened.append(await stack.enter_async_context(client_of(_with_state(app, dict(state)))))
        yield Clients(*opened)


def client_of(app: ASGIApp) -> httpx.AsyncClient:
    headers = {"x-request-id": SENT_ID}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://server", headers=headers)


def bodies(bot: BotClient) -> dict[str, dict[str, Any]]:
    document = bot.body("경복궁", "광화문", metadata={"n": 1.5, "big": 2**63 - 1}, tags=["x"])
    asked = {"chat_bot_id": str(bot.bot_id), "context_chunks": 1, "allow_partial": True}
    return {
        "/search/query": asked | {"query_text": "경복궁"},
        "/search/batch": asked | {"query_texts": ["경복궁", "부산"]},
        "/data/insert": document,
        "/data/insert/batch": {"documents": [document]},
    }


JSON_TYPE = {"content-type": "application/json"}
CASES: dict[str, Callable[[Any], tuple[bytes, dict[str, str]]]] = {
    "valid": lambda body: (json.dumps(body).encode(), JSON_TYPE),
    "unknown field": lambda body: (json.dumps(body | {"unknown": 1}).encode(), JSON_TYPE),
    "wrong type": lambda body: (json.dumps(body | {"account_name": 5}).encode(), JSON_TYPE),
    "unknown bot": lambda body: (
        re.sub(rb"(?<=chat_bot_id\": \")[0-9a-f-]{36}", OTHER, json.dumps(body).encode()),
        JSON_TYPE,
    ),
    "missing body": lambda _: (b"", JSON_TYPE),
    "invalid JSON": lambda body: (json.dumps(body).encode()[:-1], JSON_TYPE),
    "not UTF-8": lambda body: (json.dumps(body).encode() + b"\xff", JSON_TYPE),
    "an array": lambda body: (json.dumps([body]).encode(), JSON_TYPE),
    "wrong content type": lambda body: (json.dumps(body).encode(), {"content-type": "text/plain"}),
    "no content type": lambda body: (json.dumps(body).encode(), {}),
}
FAST_CASES = {"valid", "unknown bot"}
STATUSES = {
    "missing body": {400, 422}, "invalid JSON": {400}, "not UTF-8": {400}, "unknown bot": {404}, "valid": {200, 201},
}  # fmt: skip


def comparable(response: httpx.Response) -> tuple[int, dict[str, str], str]:
    """Without what differs between two equal requests: times, ids and ETags of documents, and the body's length."""
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    if "etag" in headers:
        headers["etag"] = "..."
    assert int(response.headers["content-length"]) == len(response.content)
    return response.status_code, headers, re.sub(r'(_ms|doc_id)":[0-9.]+', r'\1":0', response.text)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("path", FAST_ROUTES)
async def test_both_ways_give_the_same_response(clients: Clients, solved: list[str], path: str, case: str) -> None:
    bot = await register(clients.fastapi)
    await bot.insert(
        "경복궁", title='"제목"', metadata={"n": 1.5, "tiny": 1e-7, "big": 2**63 - 1, "list": [None, "줄\n"]}
    )
    content, headers = CASES[case](bodies(bot)[path])
    solved.clear()
    fast = await clients.fast.post(path, content=content, headers=headers)
    assert solved == ([] if case in FAST_CASES or fast.status_code == 400 else [path])
    usual = await clients.fastapi.post(path, content=content, headers=headers)
    assert fast.status_code in STATUSES.get(case, {422}), fast.text
    assert comparable(fast) == comparable(usual)
    if fast.status_code != 400:  # FastAPI resolves no dependencies for a body that is not JSON.
        assert solved[-1] == path


def test_these_routes_have_a_fast_path() -> None:
    app = create_app()
    contexts = [context for context in iter_route_contexts(app.routes) if isinstance(context.original_route, FastRoute)]
    assert {context.path for context in contexts} > set(FAST_ROUTES)
    assert [context.path for context in contexts if FastPath.of(context.original_route, app)] == FAST_ROUTES
    for context in contexts:
        if context.path in FAST_ROUTES:
            assert sum(isinstance(one.dependency, Admission) for one in context.dependencies) == 1


async def refuse() -> None:
    raise HTTPException(403, "refused")


async def refuse_request(request: Request) -> None:
    raise HTTPException(403, f"refused {request.url.path}")


async def refuse_by_generator() -> AsyncIterator[None]:
    raise HTTPException(403, "refused")
    yield


class Refusal:
    async def __call__(self, request: Request) -> AsyncIterator[None]:
        raise HTTPException(403, "refused")
        yield


def refuse_in_a_thread() -> None:
    raise HTTPException(403, "refused")


async def refuse_by_header(x_token: Annotated[str, Header()] = "") -> None:
    raise HTTPException(403, f"refused {x_token}")


async def refuse_by_another(_: Annotated[None, Depends(refuse)]) -> None: ...


RUN_BY_FAST_ROUTE = [refuse, refuse_request, refuse_by_generator, Refusal()]
LEFT_TO_FASTAPI = [refuse_in_a_thread, refuse_by_header, refuse_by_another]


class Question(BaseModel):
    text: str


class Answer(TypedDict):
    text: str


async def echo(body: Question) -> Answer:
    return {"text": body.text}


def fast_router(endpoint: Callable[..., Any] = echo, **options: Any) -> APIRouter:
    router = APIRouter(route_class=FastRoute)
    router.add_api_route("/echo", endpoint, methods=["POST"], **options)
    return router


async def responses(make_app: Callable[[], FastAPI], path: str = "/echo", body: Any = None) -> httpx.Response:
    """The response, which is the same both ways."""
    answers = []
    for app in (make_app(), use_fastapi(make_app())):
        async with client_of(app) as client:
            answers.append(await client.post(path, json=body or {"text": "한글"}))
    assert comparable(answers[0]) == comparable(answers[1])
    return answers[0]


@pytest.mark.parametrize("place", ["route", "router", "outer router", "include", "application"])
@pytest.mark.parametrize("refusal", [*RUN_BY_FAST_ROUTE, *LEFT_TO_FASTAPI])
async def test_a_dependency_refuses_wherever_it_is_declared(place: str, refusal: Any) -> None:
    def make_app() -> FastAPI:
        declared = [Depends(refusal)]
        app = FastAPI(dependencies=declared if place == "application" else None)
        router = APIRouter(route_class=FastRoute, dependencies=declared if place == "router" else None)
        router.add_api_route("/echo", echo, methods=["POST"], dependencies=declared if place == "route" else None)
        outer = APIRouter(dependencies=declared if place == "outer router" else None)
        outer.include_router(router)
        app.include_router(outer, dependencies=declared if place == "include" else None)
        return app

    refused = await responses(make_app)
    assert refused.status_code == 403
    assert refused.json()["detail"].startswith("refused")


@pytest.mark.parametrize("module", [search, data])
@pytest.mark.parametrize("refusal", [refuse, refuse_in_a_thread])
async def test_a_dependency_that_is_added_to_our_routers_refuses(module: Any, refusal: Any) -> None:
    def make_app() -> FastAPI:
        app = FastAPI()
        app.include_router(module.router, dependencies=[Depends(refusal)])
        return app

    body: Any = bodies(BotClient(httpx.AsyncClient(), "00000000-0000-0000-0000-000000000001"))  # type: ignore[arg-type]
    for path in FAST_ROUTES:
        if path.startswith(module.router.prefix):
            assert (await responses(make_app, path, body[path])).status_code == 403


async def accept() -> str:
    return "accepted"


async def accept_request(request: Request) -> AsyncIterator[str]:
    yield request.url.path


def accept_in_a_thread() -> str:
    return "accepted"


async def accept_header(x_request_id: Annotated[str, Header()]) -> str:
    return x_request_id


async def set_header(response: Response) -> str:
    response.headers["x-set"] = "set"
    return "set"


@pytest.mark.parametrize(
    ("dependency", "value", "fast"),
    [(accept, "accepted", True), (accept_request, "/echo", True), (accept_in_a_thread, "accepted", False),
     (accept_header, SENT_ID, False), (set_header, "set", False)],
)  # fmt: skip
async def test_values_of_dependencies(solved: list[str], dependency: Any, value: str, fast: bool) -> None:
    async def endpoint(body: Question, given: Annotated[str, Depends(dependency)]) -> Answer:
        return {"text": f"{body.text} {given}"}

    def make_app() -> FastAPI:
        app = FastAPI()
        app.include_router(fast_router(endpoint))
        return app

    answer = await responses(make_app)
    assert answer.json() == {"text": f"한글 {value}"}
    assert answer.headers.get("x-set") == ("set" if dependency is set_header else None)
    assert len(solved) == (1 if fast else 2)


async def test_the_status_code_of_the_route(solved: list[str]) -> None:
    def make_app() -> FastAPI:
        app = FastAPI()
        app.include_router(fast_router(status_code=202))
        return app

    assert (await responses(make_app)).status_code == 202
    assert len(solved) == 1


@pytest.mark.parametrize("options", [{"response_model_exclude_none": True}, {"response_model_exclude": {"text"}},
                                     {"response_class": Response}, {"response_model": None}])  # fmt: skip
def test_options_of_the_response_are_left_to_fastapi(options: dict[str, Any]) -> None:
    app = FastAPI()
    router = fast_router(**options)
    app.include_router(router)
    assert FastPath.of(router.routes[0], app) is None  # type: ignore[arg-type]


async def test_a_route_that_is_included_twice_is_left_to_fastapi() -> None:
    def make_app() -> FastAPI:
        app, router = FastAPI(), fast_router()
        app.include_router(router, dependencies=[Depends(refuse)])
        app.include_router(router, prefix="/open")
        return app

    assert (await responses(make_app)).status_code == 403
    assert (await responses(make_app, "/open/echo")).status_code == 200


async def test_an_override_is_honoured() -> None:
    app = FastAPI()
    app.include_router(fast_router(), dependencies=[Depends(refuse)])
    async with client_of(app) as client:
        assert (await client.post("/echo", json={"text": "a"})).status_code == 403
        app.dependency_overrides[refuse] = accept
        assert (await client.post("/echo", json={"text": "a"})).status_code == 200


@pytest.mark.parametrize("scope", ["request", "function"])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_generator_ends_when_fastapi_would_end_it(scope: Any, fails: bool) -> None:
    async def recorded(make: Callable[[FastAPI], FastAPI]) -> list[str]:
        events = []

        async def slot() -> AsyncIterator[None]:
            events.append("begin")
            try:
                yield
            except HTTPException:
                events.append("error")
                raise
            finally:
                events.append("end")

        async def endpoint(body: Question) -> Answer:
            events.append("endpoint")
            if fails:
                raise HTTPException(409)
            return {"text": body.text}

        app = make(FastAPI())
        app.include_router(fast_router(endpoint), dependencies=[Depends(slot, scope=scope)])

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            async def watch(message: Message) -> None:
                events.append(message["type"])
                await send(message)

            await app(scope, receive, watch)

        async with client_of(watched) as client:
            assert (await client.post("/echo", json={"text": "a"})).status_code == (409 if fails else 200)
        return events

    fast = await recorded(lambda app: app)
    assert fast == await recorded(use_fastapi)
    if not fails:
        assert (fast.index("end") > fast.index("http.response.body")) == (scope == "request")
