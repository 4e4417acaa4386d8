"""/v1: what clients of OpenAI's API send, and errors in the form that they can show."""

from base64 import b64decode
from collections.abc import Callable
from typing import Any

from tests.table.frame import Call, Row, containing

DIMENSION = 512
MODEL = "use-multilingual"
EMBEDDINGS = "/v1/embeddings"


def floats(answer: Any) -> str | None:
    embedding = answer["data"][0]["embedding"]
    return None if isinstance(embedding, list) and len(embedding) == DIMENSION else f"{str(embedding)[:50]}"


def encoded(answer: Any) -> str | None:
    embedding = answer["data"][0]["embedding"]
    return None if len(b64decode(embedding, validate=True)) == 4 * DIMENSION else f"{str(embedding)[:50]}"


def embeds(name: str, answer: Callable[[Any], str | None] = floats, **fields: Any) -> Row:
    return Row("v1", name, Call("POST", EMBEDDINGS, {"model": MODEL, "input": "경복궁", **fields}), 200, answer)


def refused(name: str, status: int, code: str, param: str | None, text: str, call: Call) -> Row:
    error = {"message": containing(text), "type": "invalid_request_error", "param": param, "code": code}
    return Row("v1", name, call, status, {"code": code, "status": status, "error": error})


def bad(name: str, param: str, text: str, **fields: Any) -> Row:
    call = Call("POST", EMBEDDINGS, {"model": MODEL, "input": "x", **fields})
    return refused(name, 422, "invalid_input", param, text, call)


def no_error_object(answer: Any) -> str | None:
    return "it has an error object" if "error" in answer else None


LISTED = {"object": "model", "owned_by": MODEL, "task": "embed"}
ROWS: list[Row] = [
    embeds("float", encoding_format="float"),
    embeds("left out"),
    embeds("encoding_format that is null", encoding_format=None),
    embeds("base64", encoded, encoding_format="base64"),
    embeds("dimensions and user that are null", dimensions=None, user=None),
    embeds("its own dimensions", dimensions=DIMENSION),
    *(embeds(f"input_type {kind}", input_type=kind)
      for kind in ("query", "search_query", "document", "passage", "search_document", None)),
    embeds("truncate_prompt_tokens", truncate_prompt_tokens=-1),
    embeds("a prefix", prefix="query: "),
    bad("an input_type of its own", "input_type", "'query'", input_type="classification"),
    bad("an unknown field", "truncation", "not permitted", truncation=True),
    bad("an array of tokens", "input", "check_embedding_ctx_length=False", input=[1, 2]),
    bad("arrays of tokens", "input", "check_embedding_ctx_length=False", input=[[1], [2]]),
    bad("other dimensions", "dimensions", "512 dimensions", dimensions=256),
    bad("encoding_format int8", "encoding_format", "'base64'", encoding_format="int8"),
    bad("no input", "input", "at least 1", input=[]),
    bad("a blank text", "input.1", "white space", input=["x", " "]),
    bad("a model that is null", "model", "valid string", model=None),
    refused("another model", 404, "model_not_found", "model", "This server runs",
            Call("POST", EMBEDDINGS, {"model": "text-embedding-3-small", "input": "x"})),
    refused("no JSON", 400, "malformed_body", None, "JSON", Call("POST", EMBEDDINGS, content=b"{")),
    refused("EUC-KR", 400, "malformed_body", None, "UTF-8", Call("POST", EMBEDDINGS, content=b'{"input":"\xc7"}')),
    refused("an unknown path", 404, "not_found", None, "Not Found", Call("POST", "/v1/completions", {})),
    refused("another method", 405, "method_not_allowed", None, "Method", Call("GET", EMBEDDINGS)),
    refused("a query parameter", 422, "invalid_input", "query.timeout", "takes none",
            Call("GET", "/v1/models?timeout=1")),
    refused("no reranker", 404, "model_not_found", None, "no reranker",
            Call("POST", "/v1/rerank", {"query": "x", "documents": ["y"]})),
    Row("v1", "the models", Call("GET", "/v1/models"), 200, {"object": "list", "data": [LISTED]}),
    Row("v1", "a model", Call("GET", f"/v1/models/{MODEL}"), 200, LISTED),
    refused("a model with a slash", 404, "model_not_found", "path.model", "This server runs",
            Call("GET", "/v1/models/org/model")),
    Row("v1", "other paths have no error object", Call("GET", "/data/documents"), 422, no_error_object),
]  # fmt: skip
