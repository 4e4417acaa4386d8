"""docs/EMBEDDINGS.md, "Adding a provider": the files and names in it exist."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
CODE = [
    DOCS.parent / "app" / "config.py",
    DOCS.parent / "tests" / "embedding" / "test_presets.py",
    *(DOCS.parent / "app" / "core").rglob("*.py"),
]
DEFINED = re.compile(r"^(?:class|def|async def) (\w+)|^(\w+)(?::.*)? = ", re.MULTILINE)
FIELD = re.compile(r"^    (\w+): ", re.MULTILINE)


def test_its_files_and_names_exist() -> None:
    _, _, rest = (DOCS / "EMBEDDINGS.md").read_text(encoding="utf-8").partition("\n## Adding a provider\n")
    section, _, _ = rest.partition("\n## ")
    links = re.findall(r"\]\(([^)#]+)\)", section)
    assert len(links) > 5
    assert [link for link in links if not (DOCS / link).is_file()] == []
    code = [path.read_text(encoding="utf-8") for path in CODE]
    defined = {name for text in code for groups in DEFINED.findall(text) for name in groups}
    fields = {name for text in code for name in FIELD.findall(text)}
    named = set(re.findall(r"`(_?[A-Za-z][A-Za-z_]+)`", section)) - {"mypy", "EMBEDDING_MODEL"}
    assert len(named) > 15
    assert sorted(named - defined - fields) == []
