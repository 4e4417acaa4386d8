"""Files of exports that tests make themselves."""

from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import orjson

from app.core.embedding.port import Vectors
from app.core.transfer.format import FORMAT, VERSION, ExportedBot, Manifest, end_line


def export_of(bot_id: UUID, documents: Sequence[dict[str, Any]], model: str | None, dimension: int | None) -> bytes:
    """A whole export of ``documents``, each with ``document`` and ``chunks``."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    bot = ExportedBot(bot_id, "bot", "collection", "account", now, model, dimension, 1, True)
    manifest = Manifest(FORMAT, VERSION, bot_id, now, bot, vectors=True, documents=len(documents), chunks=0)
    lines = b"".join(one + b"\n" for one in (msgspec.json.encode(manifest), *map(orjson.dumps, documents)))
    return lines + end_line(len(documents), 0, 0, sha256(lines).hexdigest())


def encoded(vector: Vectors) -> str:
    """As an export has it."""
    return b64encode(np.asarray(vector, "<f4").tobytes()).decode()
