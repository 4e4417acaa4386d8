"""The commands in scripts/: each is listed, described, and runs the module of its name."""

import importlib.util
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and os.access(path, os.X_OK))
MODULES = {
    "bench": "scripts.benchmarks",
    "crash-test": "tests.chaos.crash_test",
    "server": "app.serve",
    "simulate": "tests.simulation",
    "test": "pytest",
}
"""Those that are not ``scripts.NAME``."""
WITHOUT_MODULE = ("check", "help")
"""Bash alone, or several programs."""


def listed() -> dict[str, str]:
    output = subprocess.check_output([ROOT / "scripts" / "help"], text=True)
    return dict(re.findall(r"^scripts/(\S+) +(\S.*)$", output, re.MULTILINE))


def test_help_lists_every_script_with_a_sentence() -> None:
    assert sorted(listed()) == COMMANDS
    assert [name for name, sentence in listed().items() if not sentence.endswith(".")] == []


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in WITHOUT_MODULE])
def test_a_script_runs_the_module_of_its_name(name: str) -> None:
    found = re.search(r"^exec \.venv/bin/python -m (\S+)", (ROOT / "scripts" / name).read_text(), re.MULTILINE)
    assert found is not None
    assert found[1] == MODULES.get(name, f"scripts.{name.replace('-', '_')}")
    assert importlib.util.find_spec(found[1]) is not None


@pytest.mark.parametrize("name", COMMANDS)
def test_contributing_names_every_script(name: str) -> None:
    assert f"scripts/{name}" in (ROOT / "docs" / "CONTRIBUTING.md").read_text(encoding="utf-8")
