"""What a ``.env`` file says otherwise than it looks: python-dotenv cuts and expands values without a word."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dotenv import dotenv_values
from dotenv.parser import Binding, parse_stream

from app.config import ENV_FILE, Settings

UNQUOTED: Final = re.compile(r"\s*(?:export\s+)?[^=]+=[^\S\r\n]*(?P<value>[^'\"\r\n][^\r\n]*)")
SECRETS: Final = frozenset(
    name.upper()
    for name, field in Settings.model_fields.items()
    if "SecretStr" in str(field.annotation) or name.endswith(("_uri", "_url"))
)
DOLLAR: Final = "${:-$}"
"""An expansion of no variable with a dollar as its default: the way to write one before a brace."""


def env_file_doubts(file: Path = Path(ENV_FILE)) -> list[str]:
    """A line for each setting whose value in ``file`` looks cut, or is not what is written. No line quotes a value."""
    try:
        with file.open(encoding="utf-8") as stream:
            bindings = list(parse_stream(stream))
        values = dotenv_values(file, encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    lines = [
        f"{file} line {binding.original.line} cannot be read: is a quote missing?"
        for binding in bindings
        if binding.error
    ]
    for binding in {binding.key: binding for binding in bindings}.values():  # The last one counts.
        name = (binding.key or "").upper()
        if name.lower() not in Settings.model_fields or binding.value is None:
            continue
        value = values.get(binding.key or "")
        if os.environ.get(name, value) == value:  # Else the environment's counts.
            lines += [f"{name} in {file} {doubt}" for doubt in _doubts(binding, binding.value, name in SECRETS)]
    return lines


def _doubts(binding: Binding, value: str, secret: bool) -> Iterator[str]:
    written = UNQUOTED.match(binding.original.string)
    rest = written["value"][len(value) :].lstrip() if written and written["value"].startswith(value) else ""
    # A comment stands apart from its #.
    if rest.startswith("#") and (secret or not rest[1:2].isspace()):
        yield "ends before a blank and #: quote it, 'like #this', if that belongs to it."
    plain = value.replace(DOLLAR, "")
    unset = [name for name in re.findall(r"\$\{([^}:]+)\}", plain) if name not in os.environ]
    if unset or (secret and "${" in plain and not re.fullmatch(r"\$\{[^}]*\}", plain)):
        yield f"has a ${{...}}, which was replaced by that variable: write {DOLLAR}{{...}} if it belongs to the value."
