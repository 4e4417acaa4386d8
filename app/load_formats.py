"""Reads files of other tools as documents with chunks, for ``python -m app.cli load``.

A record of LangChain, LlamaIndex or a table is one chunk. Records that follow each other and have the same source are
the chunks of one document. The same file always gives the same lines, so that a load can be continued.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple, get_args
from uuid import UUID

import orjson

from app.utils.errors import InvalidInput

Format = Literal["ndjson", "langchain", "llamaindex", "parquet", "csv"]
FORMATS: tuple[Format, ...] = get_args(Format)
TITLE_CHARS = 80
"""Of a title that is made of the beginning of a text."""
FIELDS = ("text", "title", "external_id", "file_path", "file_type", "author", "page_number")
"""What a column can be mapped to. All other columns become metadata."""
PARQUET_ROWS = 1_000


class Line(NamedTuple):
    """A line for the server, without its line end, and how many records of the file it has."""

    content: bytes
    records: int


class Record(NamedTuple):
    """One chunk. ``source``: what its document is called; None for a document of its own."""

    source: str | None
    text: Any
    page_number: int | None
    document: Mapping[str, Any]


def read_lines(path: Path, kind: Format, bot_id: UUID, columns: Mapping[str, str]) -> Iterator[Line]:
    """``columns``: {field: column} of a table. Raises InvalidInput, which names the record."""
    try:
        if kind == "ndjson":
            yield from _own(path, bot_id)
        else:
            yield from _documents(_records(path, kind, columns), bot_id)
    except OSError as exc:
        raise InvalidInput(f"{path} cannot be read: {exc.strerror}.") from exc


def record_count(path: Path, kind: Format) -> int:
    """How many records ``read_lines`` will have read at the end; of JSON lines also those that are blank."""
    if kind == "csv":
        return sum(1 for _ in _csv(path))
    if kind == "parquet":
        return _parquet_rows(path)
    with path.open("rb") as file:
        return sum(1 for _ in file)


def format_of(path: Path) -> Format:
    """By the name of the file, and by the first line of a file of JSON lines."""
    if path.suffix in (".parquet", ".csv"):
        return "parquet" if path.suffix == ".parquet" else "csv"
    try:
        with path.open("rb") as file:
            first = orjson.loads(next((line for line in file if line.strip()), b"{}"))
    except OSError as exc:
        raise InvalidInput(f"{path} cannot be read: {exc.strerror}.") from exc
    except orjson.JSONDecodeError:
        return "ndjson"
    if isinstance(first, dict) and ("page_content" in first or "kwargs" in first):
        return "langchain"
    if isinstance(first, dict) and ("id_" in first or "text_resource" in first):
        return "llamaindex"
    return "ndjson"


def _own(path: Path, bot_id: UUID) -> Iterator[Line]:
    """Lines that are no document of this API are left to the server, which says what is wrong with them."""
    with path.open("rb") as file:
        for line in file:
            content = line.rstrip(b"\r\n")
            try:
                value = orjson.loads(content)
            except orjson.JSONDecodeError:
                yield Line(content, 1)
                continue
            if isinstance(value, dict) and isinstance(value.get("document"), dict):
                value["document"].setdefault("chat_bot_id", str(bot_id))
                content = orjson.dumps(value)
            yield Line(content, 1)


def _records(path: Path, kind: Format, columns: Mapping[str, str]) -> Iterator[Record]:
    if kind == "parquet":
        return _rows(_parquet(path), columns)
    if kind == "csv":
        return _rows(_csv(path), columns)
    return _json_records(path, _langchain if kind == "langchain" else _llamaindex)


def _json_records(path: Path, read: Any) -> Iterator[Record]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield read(orjson.loads(line))
            except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as exc:
                raise InvalidInput(f"line {number}: is no document of this format: {exc!r}") from exc


def _langchain(value: Any) -> Record:
    fields = value.get("kwargs", value)
    return _of_metadata(fields["page_content"], dict(fields.get("metadata") or {}), None)


def _llamaindex(value: Any) -> Record:
    text = value["text"] if "text" in value else value["text_resource"]["text"]
    source = (value.get("relationships") or {}).get("1") or {}
    metadata = dict(value.get("metadata") or {})
    return _of_metadata(text, metadata, source.get("node_id") or metadata.get("file_path") or value.get("id_"))


def _of_metadata(text: str, metadata: dict[str, Any], source: str | None) -> Record:
    source = source or metadata.get("source")
    page = metadata.pop("page", None)
    if not isinstance(page, int) or isinstance(page, bool) or page < 0:
        page = None
    path = metadata.get("file_path") or metadata.get("source")
    title = metadata.pop("title", None) or metadata.get("file_name") or (PurePath(str(path)).name if path else None)
    document = {"title": title, "external_id": source, "file_path": path, "metadata": metadata}
    return Record(source, text, page, document)


def _rows(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> Iterator[Record]:
    names = {field: columns.get(field, field) for field in FIELDS}
    for number, row in enumerate(rows, 1):
        if names["text"] not in row:
            raise InvalidInput(f"row {number}: there is no column {names['text']}: use --column text=NAME")
        value = {field: row.get(name) for field, name in names.items()}
        metadata = {name: one for name, one in row.items() if name not in names.values() and one is not None}
        text, page = value.pop("text"), value.pop("page_number")
        external_id = None if value["external_id"] in (None, "") else str(value["external_id"])
        fields = {field: one for field, one in value.items() if one not in (None, "")}
        document = {**fields, "external_id": external_id, "metadata": metadata}
        yield Record(external_id, text, None if page in (None, "") else int(page), document)


def _csv(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        yield from csv.DictReader(file)


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    with _parquet_file(path) as file:
        for batch in file.iter_batches(PARQUET_ROWS):
            yield from batch.to_pylist()


def _parquet_rows(path: Path) -> int:
    with _parquet_file(path) as file:
        return int(file.metadata.num_rows)


def _parquet_file(path: Path) -> Any:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as exc:
        raise InvalidInput("Parquet needs the package pyarrow: pip install pyarrow") from exc
    try:
        return parquet.ParquetFile(path)
    except ArrowInvalid as exc:
        raise InvalidInput(f"{path} is no Parquet file.") from exc


def _documents(records: Iterator[Record], bot_id: UUID) -> Iterator[Line]:
    alone = iter(range(2**63))
    for _, group in groupby(records, key=lambda one: one.source or next(alone)):
        chunks = list(group)
        first = chunks[0]
        title = first.document.get("title") or str(first.text).strip()[:TITLE_CHARS]
        item = {
            "document": {"chat_bot_id": str(bot_id), **first.document, "title": title},
            "chunks": [
                {"chunk_index": number, "text": one.text, "page_number": one.page_number}
                for number, one in enumerate(chunks)
            ],
        }
        yield Line(orjson.dumps(item, default=str), len(chunks))
