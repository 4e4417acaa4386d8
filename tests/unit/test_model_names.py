"""How EMBEDDING_PREVIOUS_MODEL and reembed --to name a model."""

from typing import get_args

import pytest
from pydantic import ValidationError

from app.config import OPENAI_LIKE, LocalProvider, Settings
from app.core.embedding.providers.model_settings import MODEL_SETTINGS, settings_for
from app.utils.errors import StartupError

GIVEN = Settings(_env_file=None, embedding_model="openai", embedding_dimension=256, sentence_bert_model="kept")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("openai", {}),
        ("use-multilingual", {"embedding_model": "use-multilingual", "embedding_dimension": None}),
        ("sentence-bert", {"embedding_model": "sentence-bert", "embedding_dimension": None}),
        (
            "sentence-bert:/models/x:y",
            {"embedding_model": "sentence-bert", "sentence_bert_model": "/models/x:y", "embedding_dimension": None},
        ),
        ("bge-m3:a/b@c", {"embedding_model": "bge-m3", "bge_m3_model": "a/b@c", "embedding_dimension": None}),
        ("openai:text-embedding-3-large", {"openai_model": "text-embedding-3-large", "embedding_dimension": None}),
        ("openai:large#512", {"openai_model": "large", "embedding_dimension": 512}),
        ("openai#512", {"embedding_dimension": 512}),
    ],
)
def test_a_name_changes_what_it_names(name: str, changed: dict[str, object]) -> None:
    assert settings_for(GIVEN, name) == GIVEN.model_copy(update=changed)
    assert Settings(_env_file=None, embedding_previous_model=name).embedding_previous_model == name  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["", "word2vec", "openai:", "openai#", "openai#0", "bge-m3:a#b", "use-multilingual:x"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(StartupError):
        settings_for(GIVEN, name)


def test_a_setting_that_is_no_name() -> None:
    with pytest.raises(ValidationError):
        Settings(_env_file=None, embedding_previous_model="word2vec")  # type: ignore[call-arg]


def test_each_provider_has_an_entry() -> None:
    assert set(MODEL_SETTINGS) == {*get_args(LocalProvider), *OPENAI_LIKE}
