"""How large a document's metadata may be. One measure wherever it can grow: at insert and at each PATCH."""

from typing import Any

import orjson

from app.utils.errors import MetadataTooLarge

METADATA_BYTES = 65_536
METADATA_DEPTH = 32


def metadata_bytes(metadata: Any) -> int:
    """Length as JSON in UTF-8, without blanks. Raises TypeError for what orjson cannot write, such as big integers."""
    return len(orjson.dumps(metadata))


def check_metadata(metadata: Any, most: int) -> None:
    """Raises MetadataTooLarge above ``most`` bytes."""
    if metadata_bytes(metadata) > most:
        raise MetadataTooLarge(f"The document's metadata would be larger than {most:,} bytes of JSON.")
