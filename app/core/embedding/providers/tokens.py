"""Counts the tokens of a text: exactly if the model's vocabulary is available, else an upper bound."""

import os
from collections.abc import Callable
from hashlib import sha1
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import gettempdir

from app.utils.errors import StartupError

VOCABULARIES = {"cl100k_base": "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"}
MODELS = {
    "text-embedding-3-small": "cl100k_base",
    "text-embedding-3-large": "cl100k_base",
    "text-embedding-ada-002": "cl100k_base",
}


def utf8_bytes(text: str) -> int:
    """An upper bound of the tokens: each token of a byte-level BPE is at least one byte (Sennrich et al. 2016)."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def exact_counter(model: str) -> Callable[[str], int] | None:
    """tiktoken's count for a model of OpenAI's; None if tiktoken or its vocabulary is not on this machine.

    tiktoken would download a missing vocabulary, without a time limit. So it is used only if its cache
    (TIKTOKEN_CACHE_DIR, or data-gym-cache in the folder for temporary files) has the file.
    """
    name = MODELS.get(model)
    if name is None or find_spec("tiktoken") is None or not _cached(VOCABULARIES[name]).is_file():
        return None
    encoding = import_module("tiktoken").get_encoding(name)

    def count(text: str) -> int:
        return len(encoding.encode_ordinary(text))

    return count


def file_counter(path: Path) -> Callable[[str], int]:
    """The count by a tokenizer.json, special tokens included. Raises StartupError."""
    try:
        tokenizer = import_module("tokenizers").Tokenizer.from_file(str(path))
    except ModuleNotFoundError as exc:
        raise StartupError("OPENAI_TOKENIZER needs the Python package tokenizers: pip install tokenizers") from exc
    except Exception as exc:  # tokenizers raises plain Exception.
        raise StartupError(f"OPENAI_TOKENIZER={path} is not a readable tokenizer.json.") from exc
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    return count


def _cached(url: str) -> Path:
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    return Path(folder or Path(gettempdir()) / "data-gym-cache") / sha1(url.encode(), usedforsecurity=False).hexdigest()
