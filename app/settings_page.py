"""docs/SETTINGS.md, made from ``Settings``: ``python -m app.cli settings > docs/SETTINGS.md``."""

from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from app.config import Settings

SECTIONS = {
    "host": "Server",
    "auth_disabled": "API keys",
    "postgres_host": "PostgreSQL",
    "milvus_uri": "Milvus",
    "embedding_model": "Embedding",
    "openai_api_key": "Embedding providers over the network",
    "rerank_model": "Reranking",
    "rate_limit": "Limits",
    "startup_timeout": "Operation",
}
"""The field that each section begins with."""
HEAD = """# Settings

Each setting is an environment variable, or a line of a file `.env` in the working directory
([.env.example](../.env.example) shows the form). The environment takes precedence. No setting is needed to start:
without any, the server starts its own PostgreSQL, Milvus Lite and embedding model. An empty value counts as unset.

On servers of your own these matter first: `POSTGRES_HOST`, `POSTGRES_PASSWORD`, `MILVUS_URI`, `EMBEDDING_MODEL`,
`RATE_LIMIT`, `LOG_FORMAT`. `WEB_CONCURRENCY` is uvicorn's: the number of server processes.

This page is made by `python -m app.cli settings > docs/SETTINGS.md`.
"""


def settings_page() -> str:
    """Markdown: a table for each section with name, default and meaning of each setting."""
    lines = [HEAD.rstrip()]
    for name, field in Settings.model_fields.items():
        if name in SECTIONS:
            lines += ["", f"## {SECTIONS[name]}", "", "| setting | default | meaning |", "|---|---|---|"]
        lines.append(f"| `{name.upper()}` | {_default(field)} | {_meaning(field)} |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None or value == {}:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _meaning(field: FieldInfo) -> str:
    choices = _choices(field.annotation)
    values = f" Values: {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
    return f"{field.description}{values}"


def _choices(annotation: Any) -> list[str]:
    """The values of a Literal, in a union too; none of another type."""
    if isinstance(annotation, str):
        return [annotation]
    if annotation is SecretStr:
        return []
    return [choice for part in get_args(annotation) for choice in _choices(part)]
