"""Finds a torch model in a folder or on the Hugging Face hub, prepares torch, and makes the model's name."""

import json
import logging
import re
import sys
from collections.abc import Iterator
from hashlib import file_digest, sha256
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from app.utils.errors import StartupError

Dtype = Literal["float32", "bfloat16"]
"""torch's name of the data type of the weights."""

REQUIREMENTS = "requirements/models.txt"
MAX_TOKENS = 8192
"""Bound for models that state none: more tokens than the longest text of a request has."""
UNUSED_FORMATS = ["*.h5", "*.msgpack", "*.ot", "*.onnx", "*.onnx_data", "*.gguf", "onnx/*", "openvino/*"]

log = logging.getLogger(__name__)


def import_package(name: str, provider: str) -> Any:
    """The module ``name``. Raises StartupError if it or a package that it imports is not installed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as exc:
        raise StartupError(
            f"EMBEDDING_MODEL={provider} needs the Python package {exc.name}: pip install -r {REQUIREMENTS}"
        ) from exc


def find(source: str, provider: str, setting: str) -> Path:
    """The model's folder: ``source`` itself, or the download of the hub's ``name`` or ``name@revision``.

    A download shows huggingface_hub's progress bar. Raises StartupError with one line that names ``setting``.
    """
    if Path(source).is_dir():
        return Path(source)
    hub = import_package("huggingface_hub", provider)
    name, _, revision = source.partition("@")
    log.info("looking for %s in the local cache and on the Hugging Face hub", source)
    try:
        # Most repositories have the weights in two formats. The second round is for those without safetensors.
        for ignored in ([*UNUSED_FORMATS, "*.bin"], UNUSED_FORMATS):
            folder = Path(hub.snapshot_download(name, revision=revision or None, ignore_patterns=ignored))
            if any(_weights(folder)):
                return folder
    except (OSError, ValueError) as exc:  # Base classes of all exceptions of huggingface_hub.
        raise StartupError(
            f"{setting}={source} is neither a folder nor a model that could be downloaded ({_first_line(exc)})"
        ) from exc
    raise StartupError(f"{setting}={source} has no weights that torch can load.")


def choose_device(wanted: str) -> str:
    """torch's name of a device; "auto" takes CUDA, then MPS, then the CPU. Raises StartupError if it does not work."""
    torch = import_module("torch")
    if wanted == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=wanted)
    except (RuntimeError, AssertionError) as exc:
        raise StartupError(f"EMBEDDING_DEVICE={wanted} cannot be used ({_first_line(exc)})") from exc
    return wanted


def prepare_torch(wanted: str, threads: int | None) -> str:
    """Sets torch's number of threads (None: all cores) and returns the device to load a model on."""
    if threads is not None:
        import_module("torch").set_num_threads(threads)
    if not sys.stderr.isatty():  # No terminal: transformers' progress bar would fill the log.
        import_module("transformers.utils.logging").disable_progress_bar()
    return choose_device(wanted)


def torch_dtype(dtype: Dtype) -> Any:
    return getattr(import_module("torch"), dtype)


def count_tokens(tokenizer: Any, texts: list[str]) -> list[int]:
    """The number of tokens of each text, special tokens included, not truncated."""
    counted = tokenizer(texts, truncation=False, padding=False, return_attention_mask=False, verbose=False)
    return [len(ids) for ids in counted["input_ids"]]


def cannot_load(folder: Path, exc: Exception) -> StartupError:
    return StartupError(f"The model in {folder} cannot be loaded ({type(exc).__name__}: {_first_line(exc)})")


def title(source: str) -> str:
    """The model's name without its owner: the last part of a path or of a hub name. Knows paths in the hub's cache."""
    cached = re.search(r"models--(?:[^/]+--)*([^/]+?)/snapshots/", source)
    return cached.group(1) if cached else Path(source.partition("@")[0]).resolve().name


def fingerprint(folder: Path, *also: str) -> str:
    """12 hexadecimal digits of a hash over the weights, the configuration of the model's modules and ``also``.

    The folder's path, the files' names and the data type at run time do not count: moved to another machine or run in
    bfloat16, it is the same model. Raises StartupError for a folder without weights.
    """
    digests = []
    for weights in _weights(folder):
        with weights.open("rb") as file:
            digests.append(file_digest(file, "sha256").hexdigest())
    if not digests:
        raise StartupError(f"{folder} has no weights that torch can load.")
    configs = [folder / "modules.json", *(part / "config.json" for part in _parts(folder) if part != folder)]
    settings = [json.dumps(json.loads(path.read_bytes()), sort_keys=True) for path in configs if path.is_file()]
    return sha256("\n".join([*sorted(digests), *settings, *also]).encode()).hexdigest()[:12]


def _parts(folder: Path) -> list[Path]:
    """The folders of the model's modules in the layout of sentence-transformers; the first is ``folder``."""
    listed = folder / "modules.json"
    paths = [module["path"] for module in json.loads(listed.read_bytes())] if listed.is_file() else []
    return [folder, *(folder / path for path in paths if path)]


def _weights(folder: Path) -> Iterator[Path]:
    for part in _parts(folder):
        files = list(part.glob("*.safetensors")) or list(part.glob("pytorch_model*.bin"))
        yield from (file for file in files if file.is_file())


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0][:300]
