"""The settings that run a model named in EMBEDDING_PREVIOUS_MODEL or ``reembed --to``."""

import re

from pydantic import ValidationError

from app.config import MODEL_NAME, OPENAI_LIKE, Settings
from app.utils.errors import StartupError

MODEL_SETTINGS = {
    "use-multilingual": None,
    "bge-m3": "bge_m3_model",
    "sentence-bert": "sentence_bert_model",
    **dict.fromkeys(OPENAI_LIKE, "openai_model"),
}
"""Each provider, and the setting that chooses its model; None if it has one model."""
SETTINGS_OF_MODEL = ("openai_query_model",)
"""Settings that belong to OPENAI_MODEL, and so not to another model of the same provider."""
SETTINGS_OF_PROVIDER = (
    *SETTINGS_OF_MODEL,
    "openai_model",
    "openai_base_url",
    "openai_api_key",
    "openai_query_prefix",
    "openai_document_prefix",
    "openai_query_extra_body",
    "openai_document_extra_body",
    "openai_encoding_format",
    "openai_dimensions_field",
    "openai_max_input_tokens",
    "openai_max_request_tokens",
    "openai_tokenizer",
    "embedding_batch_size",
)
"""Settings that belong to the provider over the network in EMBEDDING_MODEL, and so not to another one."""


def settings_for(settings: Settings, name: str) -> Settings:
    """The settings that run the model ``name``: provider, provider:model or provider:model#dimension.

    The name of EMBEDDING_MODEL gives the settings themselves. Otherwise ``#dimension`` replaces EMBEDDING_DIMENSION,
    and settings that belong to another model or provider are unset. If ``name`` is EMBEDDING_PREVIOUS_MODEL,
    EMBEDDING_PREVIOUS_SETTINGS override the result. Raises StartupError for an invalid name.
    """
    if not re.fullmatch(MODEL_NAME, name):
        providers = ", ".join(MODEL_SETTINGS)
        raise StartupError(f"{name!r} names no model: write {providers}, with :model or :model#dimension.")
    if name == settings.embedding_model:
        return settings
    rest, _, dimension = name.partition("#")
    provider, _, model = rest.partition(":")
    changes: dict[str, object] = {
        "embedding_model": provider,
        "embedding_dimension": int(dimension) if dimension else None,
    }
    if provider in OPENAI_LIKE and settings.embedding_model in OPENAI_LIKE:
        unset = SETTINGS_OF_MODEL if provider == settings.embedding_model else SETTINGS_OF_PROVIDER
        changes |= {field: None for field in unset if getattr(settings, field) is not None}
    if model:
        if (setting := MODEL_SETTINGS[provider]) is None:
            raise StartupError(f"{provider} is one model: leave out :{model}.")
        changes[setting] = model
    changed = settings.model_copy(update=changes)
    return _with_previous_settings(changed) if name == settings.embedding_previous_model else changed


def _with_previous_settings(settings: Settings) -> Settings:
    """Raises StartupError for an unknown setting or an invalid value."""
    given = {name.lower(): value.get_secret_value() for name, value in settings.embedding_previous_settings.items()}
    if not given:
        return settings
    known = set(Settings.model_fields) - {"embedding_model", "embedding_previous_model"}
    if unknown := sorted(given.keys() - known):
        names = ", ".join(unknown).upper()
        raise StartupError(f"EMBEDDING_PREVIOUS_SETTINGS holds {names}, which cannot be set there.")
    try:
        values = Settings(_env_file=None, **given)  # type: ignore[arg-type]
    except ValidationError as exc:
        errors = "; ".join(f"{str(error['loc'][0]).upper()}: {error['msg']}" for error in exc.errors())
        raise StartupError(f"EMBEDDING_PREVIOUS_SETTINGS: {errors}.") from None
    return settings.model_copy(update={name: getattr(values, name) for name in given})
