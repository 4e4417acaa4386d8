"""Warns about values of a ``.env`` file that python-dotenv silently truncates or expands."""

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
"""How to write a dollar before a brace: an expansion without a variable, whose default is a dollar."""


def env_file_warnings(file: Path = Path(ENV_FILE)) -> list[str]:
    """A line for each setting whose value differs from what ``file`` seems to say. No line contains a value."""
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
    for binding in {binding.key: binding for binding in bindings}.values():  # The last assignment wins.
        name = (binding.key or "").upper()
        if name.lower() not in Settings.model_fields or binding.value is None:
            continue
        value = values.get(binding.key or "")
        if os.environ.get(name, value) == value:  # Otherwise the environment overrides it.
            lines += [f"{name} in {file} {warning}" for warning in _warnings(binding, binding.value, name in SECRETS)]
    return lines


def _warnings(binding: Binding, value: str, secret: bool) -> Iterator[str]:
    written = UNQUOTED.match(binding.original.string)
    rest = written["value"][len(value) :].lstrip() if written and written["value"].startswith(value) else ""
    # Text directly after # is probably no comment.
    if rest.startswith("#") and (secret or not rest[1:2].isspace()):
        yield "ends before a blank and #: quote it, 'like #this', if they belong to the value."
    plain = value.replace(DOLLAR, "")
    unset = [name for name in re.findall(r"\$\{([^}:]+)\}", plain) if name not in os.environ]
    if unset or (secret and "${" in plain and not re.fullmatch(r"\$\{[^}]*\}", plain)):
        yield f"has a ${{...}}, which a variable's value replaced: write {DOLLAR}{{...}} if it belongs to the value."
