"""Settings, .env.example and docs/SETTINGS.md say the same."""

from pathlib import Path

import pytest
from dotenv import dotenv_values

from app.config import Settings
from app.settings_check import REMOVED, RENAMED, settings_warnings
from app.settings_page import SECTIONS, settings_page

ROOT = Path(__file__).resolve().parents[2]
NAMES = {name.upper() for name in Settings.model_fields}


def test_env_example_lists_every_setting_and_no_other() -> None:
    assert set(dotenv_values(ROOT / ".env.example")) == NAMES


def test_env_example_shows_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    assert Settings(_env_file=ROOT / ".env.example") == Settings(_env_file=None)


def test_the_page_of_settings_is_as_the_command_prints_it() -> None:
    """If not: python -m app.cli settings > docs/SETTINGS.md"""
    assert (ROOT / "docs" / "SETTINGS.md").read_text(encoding="utf-8") == settings_page()


def test_every_setting_has_a_meaning_and_every_section_begins_with_a_setting() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
    assert SECTIONS.keys() <= Settings.model_fields.keys()
    assert next(iter(Settings.model_fields)) == next(iter(SECTIONS))


def test_former_names_are_no_settings_and_new_ones_are() -> None:
    assert NAMES.isdisjoint({*RENAMED, *REMOVED})
    assert set(RENAMED.values()) <= NAMES


def test_former_names_that_are_set_are_named_at_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in {*RENAMED, *REMOVED}:
        monkeypatch.delenv(name, raising=False)
    assert settings_warnings() == []
    monkeypatch.setenv("ACCOUNT_RATE", "50/second")
    (tmp_path / ".env").write_text("POSTGRES_POOL_MIN=3\n", encoding="utf-8")
    assert settings_warnings() == [
        "ACCOUNT_RATE has no effect: it is called RATE_LIMIT now.",
        "POSTGRES_POOL_MIN has no effect: it is no setting any more.",
    ]


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
