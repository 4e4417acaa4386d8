"""Values of .env that python-dotenv changes are named; those that are meant so are not."""

from pathlib import Path

import pytest

from app.config import Settings
from app.env_file import env_file_warnings

CUT, EXPANDED = "ends before a blank and #", "has a ${...}"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("SET", "value")
    monkeypatch.delenv("UNSET", raising=False)


def doubts(folder: Path, text: str) -> list[str]:
    (folder / "env").write_text(text, encoding="utf-8")
    return env_file_warnings(folder / "env")


@pytest.mark.parametrize(
    ("line", "doubt"),
    [
        ("POSTGRES_PASSWORD=abc #def", CUT),
        ("POSTGRES_PASSWORD=abc # def", CUT),
        ("export MILVUS_TOKEN = root:비밀 #1", CUT),
        ("POSTGRES_USER=a #b", CUT),
        ("RATE_LIMIT_STORAGE_URI=redis://:a #b@host", CUT),
        ("POSTGRES_PASSWORD= #abc", CUT),
        ("POSTGRES_PASSWORD=a${UNSET}b", EXPANDED),
        ("POSTGRES_PASSWORD='a${SET}b'", EXPANDED),
        ("DATA_DIR=${UNSET}/data", EXPANDED),
    ],
)
def test_a_value_that_looks_changed_is_named(tmp_path: Path, line: str, doubt: str) -> None:
    [told] = doubts(tmp_path, f"PORT=8000\n{line}\n")
    assert told.startswith(f"{line.removeprefix('export ').partition('=')[0].strip()} in {tmp_path}/env {doubt}")
    assert "abc" not in told
    assert "비밀" not in told


@pytest.mark.parametrize(
    "line",
    [
        "POSTGRES_PASSWORD='abc #def'",
        'POSTGRES_PASSWORD="abc #def"  # quoted',
        "POSTGRES_PASSWORD=abc#def",
        "PORT=8000 # as agreed",
        "MILVUS_TOKEN=${SET}",
        "DATA_DIR=${SET}/data",
        "POSTGRES_PASSWORD=a${:-$}{SET}b",
        "POSTGRES_PASSWORD=a$SET",
        "NOT_OURS=a #b${UNSET}",
        "# POSTGRES_PASSWORD=a #b",
        "POSTGRES_PASSWORD=",
        "POSTGRES_PASSWORD",
        "POSTGRES_PASSWORD=a #b\nPOSTGRES_PASSWORD=c",
    ],
)
def test_what_is_meant_so_is_not(tmp_path: Path, line: str) -> None:
    assert doubts(tmp_path, line) == []


def test_the_environment_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "another")
    assert doubts(tmp_path, "POSTGRES_PASSWORD=a #b") == []


def test_a_line_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert doubts(tmp_path, "PORT=1\nPOSTGRES_PASSWORD='it's'\n") == [
        f"{tmp_path}/env line 2 cannot be read: is a quote missing?"
    ]


def test_a_file_that_is_missing_has_no_doubts(tmp_path: Path) -> None:
    assert env_file_warnings(tmp_path / "env") == []


def test_env_example_is_right_about_dollars_and_quotes(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("POSTGRES_PASSWORD='a ${:-$}{SET} #b'\n")
    settings = Settings(_env_file=tmp_path / "env")
    assert settings.postgres_password is not None
    assert settings.postgres_password.get_secret_value() == "a ${SET} #b"
