"""Filters on page_number, which belongs to the chunk: some chunks of a document pass and others do not."""

from collections.abc import Callable
from typing import Any

from tests.table.frame import FOUND, Row, batch, document, insert, problem, search


def paged(title: str, *pages: int | None, **fields: Any) -> dict[str, Any]:
    """A document with a chunk for each page, whose text names it."""
    made = document(title, *(f"{FOUND} {title}{page}" for page in pages), **fields)
    made["chunks"] = [{**chunk, "page_number": page} for chunk, page in zip(made["chunks"], pages, strict=True)]
    return made


GIVEN = [batch(paged("A", 1, 2, 2, 3, tags=["x"]), paged("B", 2, None), paged("C", 10, tags=["x"]), document("D"))]


def page(type: str, value: Any = True) -> dict[str, Any]:
    return {"type": type, "key": "page_number", "value": value}


def pages(*expected: str) -> Callable[[Any], str | None]:
    def differ(answer: Any) -> str | None:
        found = sorted(f"{one['document']['title']}{one['page_number']}" for one in answer["results"])
        return None if found == sorted(expected) else f"found {found}, not {sorted(expected)}"

    return differ


def found(name: str, filter: dict[str, Any], *expected: str, **options: Any) -> Row:
    return Row("page_number", name, search(filter, **options), 200, pages(*expected), GIVEN)


TAGGED = {"type": "contains", "key": "tags", "value": "x"}
ROWS: list[Row] = [
    found("eq", page("eq", 2), "A2", "A2", "B2"),
    found("eq, by meaning", page("eq", 2), "A2", "A2", "B2", mode="dense"),
    found("eq, by words", page("eq", 2), "A2", "A2", "B2", mode="lexical"),
    found("eq, the best of a document", page("eq", 2), "A2", "B2", group_by_document=True),
    found("ne", page("ne", 2), "A1", "A3", "BNone", "C10", "DNone"),
    found("in", page("in", [1, 10, 99]), "A1", "C10"),
    found("between", {"type": "and", "filters": [page("gte", 2), page("lt", 10)]}, "A2", "A2", "A3", "B2"),
    found("with the document's", {"type": "and", "filters": [page("gte", 2), TAGGED]}, "A2", "A2", "A3", "C10"),
    found("or the document's", {"type": "or", "filters": [page("eq", 2), TAGGED]},
          "A1", "A2", "A2", "A3", "B2", "C10"),
    found("not", {"type": "not", "filter": page("gt", 1)}, "A1", "BNone", "DNone"),
    found("exists", page("exists"), "A1", "A2", "A2", "A3", "B2", "C10"),
    found("is_empty", page("is_empty"), "BNone", "DNone"),
    found("beyond 32 bits", page("eq", 2**40)),
    found("none", page("eq", 7)),
    Row("page_number", "a string", search(page("eq", "2")), 422,
        problem("invalid_input", ("body.filter.eq.value", "takes an integer"))),
    Row("page_number", "contains", search(page("contains", 2)), 422,
        problem("invalid_input", ("body.filter.contains.value", "use eq or a comparison"))),
    Row("page_number", "a chunk with a page that is negative",
        insert(), 201, then=[(batch(paged("A", -1)), 422,
                              problem("invalid_input", ("body.documents.0.chunks.0.page_number", "greater than")))]),
]  # fmt: skip
