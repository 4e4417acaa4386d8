"""Names in docs/ARCHITECTURE.md and docs/decisions/ are names in the code."""

import ast
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
WHERE = PAGE.partition("## Where is")[2].partition("\n## ")[0]
CODE_MAP = PAGE.partition("## Code map")[2].partition("\n## ")[0]
PLACE = re.compile(r"`([\w/]+\.(?:py|sql)):([\w.]+)`")
ROWS = [line for line in WHERE.splitlines() if line.startswith("| ") and not line.startswith(("| behaviour", "| **"))]
LEAST_ROWS = 25
SHORTCUTS = (ROOT / "docs" / "decisions" / "0010-shortcuts.md").read_text(encoding="utf-8")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_there_are_enough_behaviours_and_each_is_named_once() -> None:
    assert len(ROWS) >= LEAST_ROWS
    behaviours = [row.split("|")[1].strip() for row in ROWS]
    assert len(set(behaviours)) == len(behaviours)


@pytest.mark.parametrize("row", ROWS, ids=[row.split("|")[1].strip()[:50] for row in ROWS])
def test_a_behaviour_is_where_the_table_says(row: str) -> None:
    places = PLACE.findall(row)
    assert len(places) == 1, row
    ((file, name),) = places
    if file.endswith(".sql"):
        assert re.search(rf"FUNCTION {re.escape(name)}\b", (ROOT / file).read_text(encoding="utf-8")), row
        return
    found: Any = import_module(file.removesuffix(".py").replace("/", "."))
    for part in name.split("."):
        found = getattr(found, part)
    assert callable(found), row
    # Where it is written, and not only where it is imported.
    assert found.__module__ == file.removesuffix(".py").replace("/", "."), row


def test_the_code_map_names_every_package_and_nothing_else() -> None:
    named = set(re.findall(r"^(app/[\w/]*|migrations/|tests/|scripts/)\s", CODE_MAP, re.MULTILINE))
    assert {name for name in named if not (ROOT / name).is_dir()} == set()
    packages = {f"{folder.parent.relative_to(ROOT).as_posix()}/" for folder in (ROOT / "app").rglob("__init__.py")}
    assert packages - named == set()


def test_files_that_the_page_names_exist() -> None:
    files = set(re.findall(r"`((?:app|migrations|scripts|tests)/[\w/.-]+\.\w+)[:`]", PAGE))
    assert {file for file in files if not (ROOT / file).is_file()} == set()


def test_tests_that_the_shortcuts_name_exist() -> None:
    named = TEST.findall(SHORTCUTS)
    rows = [line for line in SHORTCUTS.splitlines() if line.startswith("| **")]
    assert len(named) == len(rows) > 0
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {
            node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }, f"{file}::{name}"
