"""Generates clients from /openapi.json with four generators and uses each against a server of its own.

Generated code and installed packages are in a temporary folder. ``client_programs`` holds what a user would write: each
program registers a bot, inserts, searches, patches and handles a typed error, with an account's API key. OpenAI's
client of npm is used too. Needs Node.js 20, and installs from PyPI and npm.
"""

import argparse
import os
import subprocess
import sys
import urllib.request
import venv
from collections.abc import Callable
from pathlib import Path
from shutil import copytree, which

from tqdm import tqdm

from scripts.own_server import own_folder, own_key, server_in

PROGRAMS = Path(__file__).with_name("client_programs")
PYTHON_PACKAGES = ("openapi-python-client==0.29.1", "datamodel-code-generator==0.89.0")
TSC = ("--strict", "--target", "es2022", "--module", "commonjs", "--moduleResolution", "node10", "--skipLibCheck")
NAMES = ("openapi_python_client", "datamodel_code_generator", "openapi_typescript", "hey_api", "openai_npm")
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
            steps: dict[str, Callable[[Path], None]] = {
                "install from PyPI": install_python,
                "install from npm": install_node,
                "generate Python": generate_python,
                "generate and compile TypeScript": generate_typescript,
                **{name: use(name) for name in chosen},
            }
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
