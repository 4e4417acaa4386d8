"""Every SQL statement of the server, by name, from ``queries.sql``."""

import re
from pathlib import Path

_BLOCK = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def load(path: Path) -> dict[str, str]:
    """Splits a file of ``-- name: x`` blocks into {x: statement}."""
    parts = _BLOCK.split(path.read_text(encoding="utf-8"))
    names = parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"{path} defines a name twice")
    return {name: body.strip().rstrip(";") for name, body in zip(names, parts[2::2], strict=True)}


SQL = load(Path(__file__).with_name("queries.sql"))
