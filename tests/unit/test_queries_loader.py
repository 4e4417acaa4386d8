"""The loader of queries.sql."""

import socket
from pathlib import Path

import pytest

from app.schemas.queries import SQL, load


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "queries.sql"
    path.write_text(text, encoding="utf-8")
    return path


def test_blocks_become_statements(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "-- a file\n\n-- name: one\n-- what it does\nSELECT 1;\n\n-- ---- next\n\n-- name: two_2\nSELECT '가';\n",
    )
    loaded = load(path)
    assert list(loaded) == ["one", "two_2"]
    assert loaded["one"].startswith("-- what it does\nSELECT 1;")
    assert loaded["two_2"] == "SELECT '가'"


def test_a_name_stands_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="twice"):
        load(write(tmp_path, "-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;\n"))


def test_a_file_without_blocks_is_empty(tmp_path: Path) -> None:
    assert load(write(tmp_path, "SELECT 1;\n")) == {}


def test_every_statement_is_one_and_has_a_body() -> None:
    for name, sql in SQL.items():
        code = "\n".join(line for line in sql.splitlines() if not line.lstrip().startswith("--"))
        assert code.strip(), name
        assert ";" not in code.strip().rstrip(";"), name


def test_unit_tests_cannot_connect() -> None:
    with socket.socket() as sock, pytest.raises(AssertionError, match="may not connect"):
        sock.connect(("127.0.0.1", 1))
