"""Which provider is opened, what it imports, what keeps it from starting, and what its model is called."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.config import Settings
from app.core.embedding.providers import local_model
from app.core.embedding.providers.factory import open_embedder
from app.utils.errors import StartupError
from tests.embedding.conftest import linked, replace

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["torch", "transformers", "sentence_transformers", "FlagEmbedding", "huggingface_hub"]


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_the_app_imports_no_provider_s_packages() -> None:
    assert run(f"import sys, app.main; print([n for n in {[*PACKAGES, 'openai']} if n in sys.modules])") == "[]"


def test_the_default_starts_without_models_txt() -> None:
    """As after scripts/server, which installs requirements/server.txt alone."""
    code = f"""
import asyncio, sys
sys.modules.update(dict.fromkeys({PACKAGES}))
import app.main
from app.config import Settings
from app.core.embedding.providers.factory import open_embedder
async def main():
    embedder = await open_embedder(Settings(_env_file=None))
    print(embedder.model)
    await embedder.close()
asyncio.run(main())
"""
    assert run(code) == "use-multilingual"


@pytest.mark.parametrize(
    ("provider", "wanted"),
    [("openai_embedder", {"openai"}), ("sentence_bert", set()), ("bge_m3", set()), ("use_multilingual", set())],
)
def test_a_provider_imports_no_other_s_packages(provider: str, wanted: set[str]) -> None:
    """By -X importtime, which names each module that is imported; the torch packages follow when a model is loaded."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"import app.core.embedding.providers.{provider}"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert imported.intersection([*PACKAGES, "openai"]) == wanted


@pytest.mark.parametrize(
    ("model", "package"), [("bge-m3", "FlagEmbedding"), ("sentence-bert", "sentence_transformers")]
)
async def test_a_missing_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, model: str, package: str, minilm: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StartupError) as caught:
        await open_embedder(_settings(embedding_model=model, sentence_bert_model=str(minilm)))
    assert str(caught.value) == (
        f"EMBEDDING_MODEL={model} needs the Python package {package}: pip install -r requirements/models.txt"
    )
    assert (ROOT / local_model.REQUIREMENTS).is_file()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sentence_bert_model": None}, "SENTENCE_BERT_MODEL"),
        ({"sentence_bert_model": "nobody/nothing"}, "SENTENCE_BERT_MODEL=nobody/nothing is neither a folder nor"),
        ({"sentence_bert_model": "nobody/nothing@v1"}, "SENTENCE_BERT_MODEL=nobody/nothing@v1 is neither"),
        ({"sentence_bert_model": "/no/such/folder"}, "SENTENCE_BERT_MODEL=/no/such/folder is neither"),
        ({"sentence_bert_model": str(ROOT / "app")}, "cannot be loaded"),
        ({"embedding_model": "bge-m3", "bge_m3_model": "nobody/nothing"}, "BGE_M3_MODEL=nobody/nothing is neither"),
        ({"embedding_device": "abacus"}, "EMBEDDING_DEVICE=abacus cannot be used"),
        ({"embedding_dimension": 512}, "EMBEDDING_DIMENSION=512, but sentence-bert:model@"),
    ],
)
async def test_what_keeps_a_model_from_starting_is_one_line(
    minilm: Path, given: dict[str, object], message: str
) -> None:
    with pytest.raises(StartupError) as caught:
        await open_embedder(_settings(**{"sentence_bert_model": str(minilm), **given}))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_sentence_bert_is_opened_as_it_is_set(minilm: Path) -> None:
    embedder = await open_embedder(
        _settings(
            sentence_bert_model=str(minilm), sentence_bert_document_prompt="passage: ", embedding_dtype="bfloat16"
        )
    )
    assert embedder.dimension == 384
    fingerprint = local_model.fingerprint(minilm, "256", "passage: ")
    assert embedder.model == f"sentence-bert:model@{fingerprint}"
    await embedder.close()


async def test_bge_m3_is_opened_as_it_is_set(m3: Path) -> None:
    embedder = await open_embedder(_settings(embedding_model="bge-m3", bge_m3_model=str(m3)))
    assert (embedder.model, embedder.dimension) == (f"bge-m3:tiny-m3@{local_model.fingerprint(m3)}", 32)
    await embedder.close()


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("BAAI/bge-m3", "bge-m3"),
        ("BAAI/bge-m3@0123abc", "bge-m3"),
        ("/models/bge-m3/", "bge-m3"),
        ("/cache/models--BAAI--bge-m3/snapshots/0123abc", "bge-m3"),
        ("/cache/models--single/snapshots/0123abc", "single"),
    ],
)
def test_a_model_keeps_its_name_wherever_it_lies(source: str, title: str) -> None:
    assert local_model.title(source) == title


def test_the_fingerprint_follows_weights_and_modules_alone(minilm: Path, tmp_path: Path) -> None:
    original = local_model.fingerprint(minilm)
    folder = linked(minilm, tmp_path / "elsewhere")
    replace(folder / "README.md", "another")
    assert local_model.fingerprint(folder) == original
    replace(folder / "1_Pooling" / "config.json", '{"pooling_mode_cls_token": true}')
    pooled = local_model.fingerprint(folder)
    replace(folder / "model.safetensors", "other weights")
    weighed = local_model.fingerprint(folder)
    assert len({original, pooled, weighed, local_model.fingerprint(folder, "passage: ")}) == 4


def _settings(**given: object) -> Settings:
    return Settings(_env_file=None, **{"embedding_model": "sentence-bert", **given})  # type: ignore[arg-type]
