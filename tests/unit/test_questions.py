"""Files of questions with known answers."""

from pathlib import Path

import pytest

from app.core.operations.questions import Question, read_questions
from app.core.operations.tuning import MAX_QUESTIONS, thinned
from app.utils.errors import InvalidInput


def test_each_way_to_name_an_answer(tmp_path: Path) -> None:
    file = tmp_path / "questions.ndjson"
    file.write_text(
        '{"question": "a", "doc_id": 7}\n\n{"question": "b", "passage": "p"}\n'
        '{"question": "c", "title": "\u1100\u1161"}\n{"question": "d", "doc_id": null}\n'
        '{"question": "e", "external_id": "\u1100\u1161/1"}\n',
        encoding="utf-8",
    )
    found = read_questions(file)
    assert [(one.text, one.doc_id, one.passage, one.title, one.external_id, one.line) for one in found] == [
        ("a", 7, None, None, None, 1),
        ("b", None, "p", None, None, 3),
        ("c", None, None, "가", None, 4),
        ("d", None, None, None, None, 5),
        ("e", None, None, None, "가/1", 6),
    ]
    assert [one.has_answer for one in found] == [True, True, True, False, True]


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[]",
        '{"doc_id": 1}',
        '{"question": " ", "doc_id": 1}',
        '{"question": "a"}',
        '{"question": "a", "doc_id": "1"}',
        '{"question": "a", "doc_id": true}',
        '{"question": "a", "title": ""}',
        '{"question": "a", "external_id": 1}',
        '{"question": "a", "passage": 1}',
        '{"question": "a", "doc_id": 1, "title": "t"}',
        '{"question": "a", "doc": 1}',
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "questions.ndjson"
    file.write_text('{"question": "a", "doc_id": 1}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match="line 2"):
        read_questions(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_questions(tmp_path / "nothing")


def test_many_are_thinned_out_evenly() -> None:
    many = [Question(str(number), doc_id=None if number % 2 else 1, line=number) for number in range(6_000)]
    few = thinned(many)
    assert len(few) == MAX_QUESTIONS
    assert all(one.has_answer for one in few)
    assert (few[0].line, few[-1].line) == (0, 5_994)
    assert thinned(many[:3]) == [many[0], many[2]]
    assert thinned([]) == []
