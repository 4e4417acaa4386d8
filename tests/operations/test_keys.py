"""API keys that the command line creates, and servers that require them."""

import asyncio
import os
import sys
from pathlib import Path

import httpx

from app.config import Settings
from app.core.access.api_keys import KEY
from tests.milvus_server import free_ports
from tests.operations.conftest import ROOT, served


def environment(folder: Path, **settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    return kept | {"DATA_DIR": str(folder / "data"), "PYTHONPATH": str(ROOT)} | settings


async def run(folder: Path, *command: str, **settings: str) -> tuple[int | None, str, str]:
    """Exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=folder,
        env=environment(folder, **settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def keys(folder: Path, *arguments: str) -> tuple[int | None, str, str]:
    return await run(folder, "-m", "app.cli", "keys", *arguments)


async def test_a_server_refuses_to_start_until_there_is_a_key(tmp_path: Path) -> None:
    port = str(free_ports(1)[0])
    code, _, errors = await run(tmp_path, "-m", "uvicorn", "app.main:app", "--port", port, "--log-level", "error")
    assert code == 3
    (line,) = [line for line in errors.splitlines() if "API key" in line]
    assert "python -m app.cli keys create" in line
    assert "Traceback" not in errors
    code, _, errors = await run(tmp_path, "-m", "app.serve", PORT=port)
    assert code == 3
    code, _, errors = await run(tmp_path, "-m", "app.serve", "--try-out", PORT=port, AUTH_DISABLED="false")
    assert code == 3, "AUTH_DISABLED=false is obeyed"
    code, _, errors = await run(tmp_path, "-m", "app.serve", "--try-out", PORT=port, HOST="0.0.0.0")
    assert code == 3, "other machines cannot reach a server without keys"

    # While no server runs.
    code, output, errors = await keys(tmp_path, "create", "--account", "mine", "--scope", "write", "--note", "a test")
    assert code == 0, errors
    first = output.strip()
    assert KEY.fullmatch(first)
    assert first not in errors

    async with served(tmp_path, AUTH_DISABLED="false", API_KEY_CACHE_TTL="0.2") as server:
        async with httpx.AsyncClient(base_url=server.url) as client:

            async def status(key: str) -> int:
                return (await client.get("/collection/list", headers={"X-API-Key": key})).status_code

            assert await status(first) == 200
            assert (await client.get("/collection/list")).status_code == 401

            # While one runs.
            code, output, _ = await keys(tmp_path, "create", "--account", "mine", "--days", "1")
            second = output.strip()
            assert (code, await status(second)) == (0, 200)

            code, output, _ = await keys(tmp_path, "revoke", first[:11])
            assert (code, "0.2" in output or "5" in output) == (0, True)
            async with asyncio.timeout(10):
                while await status(first) == 200:
                    await asyncio.sleep(0.02)
            assert (await status(first), await status(second)) == (401, 200)
        text = server.log.read_text()
        assert first[12:] not in text
        assert second[12:] not in text
        assert "AUTH_DISABLED" not in text

    code, output, _ = await keys(tmp_path, "list")
    lines = output.splitlines()
    assert [line.split()[:2] for line in lines] == [[first[:11], "revoked"], [second[:11], "usable"]]
    assert "account='mine' scopes=write" in lines[0]
    assert "note='a test'" in lines[0]
    assert "scopes=read" in lines[1]
    assert "expires=" in lines[1]
    assert first[12:] not in output
    assert (await keys(tmp_path, "list", "--account", "nobody"))[1] == ""
    assert (await keys(tmp_path, "revoke", first[:11]))[0] == 1
    assert (await keys(tmp_path, "revoke", "cm_nosuchky"))[0] == 1


async def test_the_command_line_rejects_invalid_accounts_and_times(tmp_path: Path) -> None:
    for arguments in (
        ["create"],
        ["create", "--account", " "],
        ["create", "--account", "x" * 129],
        ["create", "--account", "mine", "--scope", "root"],
        ["create", "--account", "mine", "--days", "0"],
        ["create", "--account", "mine", "--days", "nan"],
    ):
        code, output, errors = await keys(tmp_path, *arguments)
        assert (code, output) == (2, ""), arguments
        assert "Traceback" not in errors
