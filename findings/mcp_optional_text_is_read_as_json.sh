#!/usr/bin/env bash
# mcp 2.3.0, MCPServer's decorator `tool`.
#
# Guess: a parameter declared `str | None` takes every string as `str` does. Only a parameter that cannot be a string, such
#   as a list, is tried as JSON for models that quote their arguments.
# Seen: only the exact annotation `str` is left alone. A string for `str | None` that happens to be JSON is parsed first:
#   the text "null" arrives as None, and a text that is a JSON list or object is refused as "not a valid string".
#   A search tool with an optional filter text fails on such a text, and works on all others.
# Output:
#   str        null     -> 'null'
#   str        ["a"]    -> '["a"]'
#   str | None null     -> None
#   str | None ["a"]    -> ToolError
#   str | None 123      -> '123'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mcp==2.3.0
cat >"$folder/probe.py" <<'PY'
import asyncio

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("probe")


@server.tool()
def required(text: str) -> str:
    return repr(text)


@server.tool()
def optional(text: str | None = None) -> str:
    return repr(text)


async def main() -> None:
    for name, kind, texts in (
        ("required", "str", ("null", '["a"]')),
        ("optional", "str | None", ("null", '["a"]', "123")),
    ):
        for text in texts:
            try:
                result = await server.call_tool(name, {"text": text})
                got = result.content[0].text
            except ToolError as exc:
                assert "valid string" in str(exc)
                got = "ToolError"
            print(f"{kind:<10} {text:<8} -> {got}")


asyncio.run(main())
PY
"$folder/venv/bin/python" -W ignore "$folder/probe.py" | tee "$folder/out"
diff "$folder/out" - <<'EXPECTED'
str        null     -> 'null'
str        ["a"]    -> '["a"]'
str | None null     -> None
str | None ["a"]    -> ToolError
str | None 123      -> '123'
EXPECTED
