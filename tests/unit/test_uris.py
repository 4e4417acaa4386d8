"""A URI of a setting is told without what may be secret in it."""

import pytest

from app.config import Settings
from app.settings_check import read_settings
from app.utils.uris import checked_uri, printable


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("https://milvus:19530", "https://milvus:19530"),
        ("https://root:secret@milvus:19530/db?token=secret", "https://milvus:19530"),
        ("https://secret@milvus", "https://milvus"),
        ("http://a:secret@b:secret@[::1]:1", "http://[::1]:1"),
        ("https://root:123#secret@milvus", "https://..."),
        ("https://root:1/secret@milvus", "https://..."),
        ("https://milvus/?secret=a@b", "https://..."),
        ("unix:/run/milvus.sock", "unix:/run/milvus.sock"),
        ("root:secret@milvus", "(an address without a scheme)"),
    ],
)
def test_printable(uri: str, told: str) -> None:
    assert printable(uri) == told


@pytest.mark.parametrize(
    "uri", ["https://root:123#secret@milvus", "https://root:secret/1@milvus", "https://milvus:secret", "https://"]
)
def test_a_uri_that_would_be_read_wrongly_is_refused_without_being_quoted(uri: str) -> None:
    with pytest.raises(ValueError, match=r"has an @ after the host|should be scheme://host") as caught:
        checked_uri(uri)
    assert "secret" not in str(caught.value)


def test_wrong_settings_are_told_without_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        "POSTGRES_HOST": "postgres://user:secret@host/db",
        "MILVUS_URI": "https://root:1#secret@milvus",
        "RATE_LIMIT_STORAGE_URI": "secret://secret@redis",
        "OPENAI_BASE_URL": "secret@openai",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "secret@collector",
        "RATE_LIMIT": "secret",
        "PORT": "secret",
        "POSTGRES_SSLMODE": "secret",
    }
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir("/")
    _, lines = read_settings()
    assert {line.partition(":")[0] for line in lines} >= set(wrong)
    assert "secret" not in " ".join(lines)
