"""Unicode: names are compared in NFC, whatever form they were sent in; text that shows nothing is blank."""

import unicodedata
from typing import Any

from tests.table.frame import FOUND, Call, Row, document, get, insert, patch, problem, search, titles


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


NAME, ACCENT = "보고서", "café"
FIELDS: dict[str, Any] = {
    "file_path": f"/문서/{ACCENT}.pdf",
    "author": "홍길동",
    "tags": ["여행", ACCENT],
    "metadata": {"부서": "관광", ACCENT: {"이름": [ACCENT]}},
}


def decomposed(value: Any) -> Any:
    match value:
        case str():
            return nfd(value)
        case list():
            return [decomposed(item) for item in value]
        case dict():
            return {nfd(key): decomposed(item) for key, item in value.items()}
    return value


STORED = [insert(nfd(NAME), f"{FOUND} 하나", **decomposed(FIELDS))]
"""As macOS would send it."""


def condition(type: str, key: str, value: Any) -> dict[str, Any]:
    return {"type": type, "key": key, "value": value}


CONDITIONS = {
    "eq title": condition("eq", "title", NAME),
    "eq file_path": condition("eq", "file_path", FIELDS["file_path"]),
    "eq author": condition("eq", "author", "홍길동"),
    "eq tags": condition("eq", "tags", ["여행", ACCENT]),
    "eq value": condition("eq", "metadata.부서", "관광"),
    "eq nested key": condition("eq", f"metadata.{ACCENT}.이름", [ACCENT]),
    "eq object": condition("eq", f"metadata.{ACCENT}", {"이름": [ACCENT]}),
    "in title": condition("in", "title", ["x", NAME]),
    "in value": condition("in", "metadata.부서", ["x", "관광"]),
    "contains in title": condition("contains", "title", "고"),
    "contains in tags": condition("contains", "tags", ACCENT),
    "contains in value": condition("contains", "metadata.부서", "광"),
    "contains in array": condition("contains", f"metadata.{ACCENT}.이름", ACCENT),
    "exists": condition("exists", "metadata.부서", True),
    "gte title": condition("gte", "title", NAME),
    "lte value": condition("lte", "metadata.부서", "관광"),
}
NEGATED = {
    "ne title": condition("ne", "title", NAME),
    "ne value": condition("ne", "metadata.부서", "관광"),
    "nin author": condition("nin", "author", ["홍길동"]),
    "exists false": condition("exists", "metadata.부서", False),
}
BLANK = {
    "zero-width space": "\u200b",
    "Hangul filler": "\u3164",
    "Hangul fillers of Jamo": "\u115f\u1160",
    "half-width Hangul filler": "\uffa0",
    "word joiner": "\u2060",
    "byte order mark": "\ufeff",
    "soft hyphen": "\u00ad",
    "braille blank": "\u2800",
    "marks of direction": "\u200e\u202b\u2066",
    "variation selector": "\ufe0f",
    "tag character": "\U000e0020",
    "control characters": "\x01\x7f\x85",
    "white space and joiners": " \u200d\u3000\u200b\n",
}


def blank_rows() -> list[Row]:
    rows = []
    for name, text in BLANK.items():
        said = problem("invalid_input", ("body.chunks.0.text", "more than white space"))
        rows.append(Row("blank", f"chunk of {name}", insert("t", text), 422, said))
    for where, body in {
        "title": document("\u200b"),
        "tags.0": document(tags=["\u3164"]),
    }.items():
        said = problem("invalid_input", (f"body.document.{where}", "more than white space"))
        rows.append(Row("blank", where, Call("POST", "/data/insert", body), 422, said))
    said = problem("invalid_input", ("body.query_text", "more than white space"))
    rows.append(Row("blank", "query", search(query_text="\u2060\u200b"), 422, said))
    said = problem("invalid_input", ("body.account_name", "more than white space"))
    rows.append(Row("blank", "account_name", search(account_name="\ufeff"), 422, said))
    shown = "👩\u200d💻 \ufeff가\u200b나"
    read = {"chunks": [{"text": shown}]}
    rows.append(
        Row("blank", "joiners among letters are kept", insert("t", shown), 201, given=[insert("t", shown)],
            then=[(get(), 200, read)])
    )  # fmt: skip
    return rows


ROWS: list[Row] = [
    *(Row("nfc", name, search(one), 200, titles(NAME), STORED) for name, one in CONDITIONS.items()),
    *(Row("nfc", f"{name}, asked in NFD", search({**one, "key": nfd(one["key"]), "value": decomposed(one["value"])}),
          200, titles(NAME), STORED) for name, one in CONDITIONS.items() if not isinstance(one["value"], bool)),
    *(Row("nfc", name, search(one), 200, titles(), STORED) for name, one in NEGATED.items()),
    Row("nfc", "fields are given back in NFC", get(), 200, {"document": {"title": NAME, **FIELDS}}, STORED),
    Row("nfc", "a chunk's text is given back as sent", get(), 200, {"chunks": [{"text": nfd(ACCENT)}]},
        [insert("t", nfd(ACCENT))]),
    Row("nfc", "Hangul of Jamo", search(condition("eq", "title", "각")), 200, titles("각"),
        [insert("\u1100\u1161\u11a8")]),
    Row("nfc", "compatibility ideograph", search(condition("eq", "title", "金")), 200, titles("金"),
        [insert("\uf90a")]),
    Row("nfc", "Kelvin sign", search(condition("eq", "title", "K")), 200, titles("K"), [insert("\u212a")]),
    Row("nfc", "full width is another letter", search(condition("eq", "title", "A")), 200, titles(),
        [insert("\uff21")]),
    Row("nfc", "a title of 512 letters in NFD", insert(nfd("각" * 512)), 201),
    Row("nfc", "a title of 513 letters in NFD", insert(nfd("각" * 513)), 422,
        problem("invalid_input", ("body.document.title", "at most 512"))),
    Row("nfc", "a tag of 128 letters in NFD", insert(tags=[nfd("é" * 128)]), 201),
    Row("nfc", "a letter that NFC makes longer", insert("\U0001d160" * 512), 422,
        problem("invalid_input", ("body.document.title", "at most 512"))),
    Row("nfc", "a key in both forms", insert(metadata={ACCENT: 1, nfd(ACCENT): 2}), 422,
        problem("invalid_input", ("body.document.metadata", "the key café twice"))),
    Row("nfc", "a nested key in both forms", insert(metadata={"a": [{ACCENT: 1, nfd(ACCENT): 2}]}), 422,
        problem("invalid_input", ("body.document.metadata", "the key café twice"))),
    Row("nfc", "a filter's object with a key in both forms",
        search(condition("eq", "metadata.a", {ACCENT: 1, nfd(ACCENT): 2})), 422,
        problem("invalid_input", ("body.filter.eq.value", "twice"))),
    Row("nfc", "PATCH of a key in NFD", patch({nfd("부서"): "홍보"}), 200, given=STORED,
        then=[(get(), 200, {"document": {"metadata": {**FIELDS["metadata"], "부서": "홍보"}}})]),
    Row("nfc", "PATCH with null of a key in NFD", patch({nfd("부서"): None}), 200, given=STORED,
        then=[(search(CONDITIONS["exists"]), 200, titles())]),
    Row("nfc", "PATCH of a title in NFD", patch({"title": nfd("새 보고서")}), 200, given=STORED,
        then=[(search(condition("eq", "title", "새 보고서")), 200, titles("새 보고서"))]),
    Row("nfc", "PATCH of a key in both forms", patch({ACCENT: 1, nfd(ACCENT): 2}), 422,
        problem("invalid_input", ("body.metadata_updates", "twice")), given=STORED),
    Row("nfc", "an account's name in NFD", Call("GET", f"/data/documents?chat_bot_id=<bot>&account_name={nfd('회사')}"),
        404, problem("bot_not_found")),
    *blank_rows(),
]  # fmt: skip
