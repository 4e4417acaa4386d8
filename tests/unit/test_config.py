"""Settings, .env.example and README's table say the same."""

from pathlib import Path

import pytest
from dotenv import dotenv_values

from app.config import Settings

ROOT = Path(__file__).resolve().parents[2]
NAMES = {name.upper() for name in Settings.model_fields}


def test_env_example_lists_every_setting_and_no_other() -> None:
    assert set(dotenv_values(ROOT / ".env.example")) == NAMES


def test_env_example_shows_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    assert Settings(_env_file=ROOT / ".env.example") == Settings(_env_file=None)


@pytest.mark.parametrize("document", ["README.md", "docs/README.ko.md"])
def test_documentation_names_every_setting(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert {name for name in NAMES if f"`{name}`" not in text} == set()


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({}, None),
        ({"milvus_host": "m"}, "http://m:19530"),
        ({"milvus_host": "m", "milvus_port": 1}, "http://m:1"),
        ({"milvus_host": "m", "milvus_uri": "https://n:2"}, "https://n:2"),
    ],
)
def test_milvus_address(given: dict[str, object], address: str | None) -> None:
    assert Settings(_env_file=None, **given).milvus_address == address


def test_secrets_are_not_printed() -> None:
    settings = Settings(_env_file=None, postgres_password="hunter2", milvus_token="hunter2")
    assert "hunter2" not in repr(settings)
