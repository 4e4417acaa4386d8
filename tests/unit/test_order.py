"""The order of the test files."""

from pathlib import Path

from tests.order import LONGEST, position

ROOT = Path(__file__).resolve().parents[2]


def test_every_listed_file_exists() -> None:
    assert [file for file in LONGEST if not (ROOT / file).is_file()] == []


def test_unit_tests_come_first_then_the_longest_files() -> None:
    files = ["tests/api/test_keys.py", LONGEST[1], "tests/unit/test_order.py", "tests/api/test_docs.py", LONGEST[0]]
    assert sorted(files, key=position) == [files[2], LONGEST[0], LONGEST[1], files[0], files[3]]
