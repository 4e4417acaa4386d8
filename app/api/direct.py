"""A shorter way to a handler for requests that are as they should be.

FastAPI resolves each dependency by itself and looks at the answer once more, which takes longer than all else that is
done for a search on the way to its handler.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter

from app.api.auth import callers_account
from app.api.deps import admit

JSON = "application/json"


class DirectRoute(APIRoute):
    """For handlers of (body, services, account, limits) that are admitted and return a model.

    Whatever is not plain JSON that the body's model takes goes FastAPI's own way, and so gets its errors.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        usual = super().get_route_handler()
        model = self.endpoint.__annotations__["body"]
        answers = TypeAdapter[BaseModel](self.endpoint.__annotations__["return"])

        async def handle(request: Request) -> Response:
            body = await _body(request, model)
            if body is None:
                return await usual(request)
            await admit(request)
            account = await callers_account(request)
            answer = await self.endpoint(body, request.state.services, account, request.state.limits)
            return Response(answers.dump_json(answer), media_type=JSON)

        return handle


async def _body(request: Request, model: type[BaseModel]) -> BaseModel | None:
    if request.headers.get("content-type") != JSON:
        return None
    try:
        return model.model_validate(await request.json())
    except (ValueError, RecursionError):
        return None
