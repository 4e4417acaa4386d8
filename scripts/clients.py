"""Generates clients from /openapi.json with four generators and uses each against a server of its own.

Generated code and installed packages are in a temporary folder. ``client_programs`` holds what a user would write: each
program registers a bot, inserts, searches, patches and handles a typed error, with an account's API key. OpenAI's
client of npm is used too. The examples of docs/CLIENTS.md run, and LangChain's suites of ``clients/python``. Needs
Node.js 20, and installs from PyPI and npm.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import urllib.request
import venv
from collections.abc import Callable
from pathlib import Path
from shutil import copytree, which

from tqdm import tqdm

from scripts.own_server import own_folder, own_key, server_in

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = Path(__file__).with_name("client_programs")
PAGE = ROOT / "docs" / "CLIENTS.md"
BOT = "7f3c1e9a-2b4d-4c6e-8f10-1a2b3c4d5e6f"
PYTHON_PACKAGES = ("openapi-python-client==0.29.1", "datamodel-code-generator==0.89.0")
TSC = ("--strict", "--target", "es2022", "--module", "commonjs", "--moduleResolution", "node10", "--skipLibCheck")
FRAMEWORKS = (
    "openai==3.57.0", "litellm==1.110.2", "mcp==2.3.0", "langchain-openai==1.7.4",
    "langchain-tests==1.1.9", "llama-index-embeddings-openai-like==0.4.0", "pytest==9.2.0", "pytest-asyncio==1.5.0",
)  # fmt: skip
"""With ``clients/python``: what the Python examples of docs/CLIENTS.md import, and the suites of LangChain."""
NAMES = ("openapi_python_client", "datamodel_code_generator", "openapi_typescript", "hey_api", "openai_npm",
         "docs_python", "docs_javascript", "frameworks")  # fmt: skip
SECONDS = 600
"""The longest that a step may take."""


class Failed(Exception):
    """A step failed; its output."""


def run(folder: Path, *command: str | Path, **variables: str) -> None:
    """Raises Failed."""
    path = f"{folder / 'venv/bin'}:{folder / 'node_modules/.bin'}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path} | variables
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=environment, text=True, timeout=SECONDS, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        raise Failed(done.stdout[-4_000:])


def install_python(folder: Path) -> None:
    venv.create(folder / "venv", with_pip=True)
    run(folder, folder / "venv/bin/pip", "install", "--quiet", *PYTHON_PACKAGES)


def install_node(folder: Path) -> None:
    run(folder, "npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts")


def generate_python(folder: Path) -> None:
    run(folder, "openapi-python-client", "generate", "--path", "openapi.json", "--output-path", "memory_client",
        "--meta", "none", "--fail-on-warning")  # fmt: skip
    run(folder, "datamodel-codegen", "--input", "openapi.json", "--input-file-type", "openapi", "--output",
        "memory_models.py", "--output-model-type", "pydantic_v2.BaseModel")  # fmt: skip


def generate_typescript(folder: Path) -> None:
    run(folder, "openapi-typescript", "openapi.json", "--output", "schema.d.ts")
    run(folder, "openapi-ts", "--input", "openapi.json", "--output", "hey")
    run(folder, "tsc", *TSC, "--outDir", "out", "openapi_typescript.ts", "hey_api.ts", "openai_npm.ts")


def use(name: str) -> Callable[[Path], None]:
    def step(folder: Path) -> None:
        program = f"{name}.py" if (folder / f"{name}.py").exists() else f"out/{name}.js"
        run(folder, "python" if program.endswith(".py") else "node", program)

    return step


def examples(folder: Path, language: str, ending: str, prelude: str) -> list[Path]:
    """Writes each example of docs/CLIENTS.md in this language to a file."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    files = []
    for number, block in enumerate(blocks):
        files.append(folder / f"docs_{number}.{ending}")
        files[-1].write_text(prelude + block.replace("https://HOST", os.environ["MEMORY_URL"]), encoding="utf-8")
    if not files:
        raise Failed(f"docs/CLIENTS.md has no example in {language}")
    return files


def insert_example() -> None:
    """The bot that the examples search."""
    for path, body in (
        ("/collection/create", {"chat_bot_id": BOT, "bot_name": "docs", "collection_name": "docs"}),
        ("/data/insert", {"document": {"chat_bot_id": BOT, "title": "궁", "metadata": {"language": "ko"}},
                          "chunks": [{"chunk_index": 0, "text": "경복궁은 화요일에 쉰다."}]}),
    ):  # fmt: skip
        headers = {"Authorization": f"Bearer {os.environ['MEMORY_KEY']}", "Content-Type": "application/json"}
        request = urllib.request.Request(os.environ["MEMORY_URL"] + path, json.dumps(body).encode(), headers)  # noqa: S310
        urllib.request.urlopen(request).close()  # noqa: S310 - our own


def install_frameworks(folder: Path) -> None:
    venv.create(folder / "frameworks", with_pip=True)
    client = f"{ROOT / 'clients/python'}[langchain,llama-index,haystack,progress]"
    run(folder, folder / "frameworks/bin/pip", "install", "--quiet", *FRAMEWORKS, client)


def docs_python(folder: Path) -> None:
    prelude = f"KEY, CHAT_BOT_ID = {os.environ['MEMORY_KEY']!r}, {BOT!r}\n"
    for file in examples(folder, "python", "py", prelude):
        run(folder, folder / "frameworks/bin/python", file)


def docs_javascript(folder: Path) -> None:
    prelude = f'const KEY = "{os.environ["MEMORY_KEY"]}", CHAT_BOT_ID = "{BOT}";\n'
    for file in examples(folder, "js", "mjs", prelude):
        run(folder, "node", file)


def frameworks(folder: Path) -> None:
    """The suites of LangChain and the retrievers of ``clients/python``."""
    tests = ROOT / "clients/python/tests"
    run(folder, folder / "frameworks/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", tests)


DOCS: dict[str, Callable[[Path], None]] = {
    "docs_python": docs_python,
    "docs_javascript": docs_javascript,
    "frameworks": frameworks,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/clients", description=__doc__)
    parser.add_argument("--only", choices=NAMES, nargs="+", default=NAMES, help="run only these programs")
    chosen = parser.parse_args().only
    if which("npm") is None:
        sys.exit("Needs Node.js 20 or newer, with npm.")
    failed = 0
    with own_folder() as folder, own_folder() as data:
        copytree(PROGRAMS, folder, dirs_exist_ok=True)
        key = own_key(data, "acme", "write")
        with server_in(data, AUTH_DISABLED="false") as address:
            os.environ |= {"MEMORY_URL": address, "MEMORY_KEY": key}
            urllib.request.urlretrieve(f"{address}/openapi.json", folder / "openapi.json")  # noqa: S310 - our own
            steps: dict[str, Callable[[Path], None]] = {}
            if set(chosen) - DOCS.keys():
                steps |= {
                    "install from PyPI": install_python,
                    "install from npm": install_node,
                    "generate Python": generate_python,
                    "generate and compile TypeScript": generate_typescript,
                }
            elif "docs_javascript" in chosen:
                steps["install from npm"] = install_node
            if {"docs_python", "frameworks"} & set(chosen):
                steps["install frameworks from PyPI"] = install_frameworks
            steps |= {name: DOCS.get(name) or use(name) for name in chosen}
            insert_example()
            for name in (bar := tqdm(steps, unit="step")):
                bar.set_postfix_str(name)
                try:
                    steps[name](folder)
                    bar.write(f"{name}: ok")
                except Failed as exc:
                    bar.write(f"{name}: FAILED\n{exc}")
                    failed += 1
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
