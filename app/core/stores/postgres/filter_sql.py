"""Translates a filter (``app.schemas.filter_tree``) into a boolean SQL expression and its parameters."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from functools import cache
from typing import Any

from app.schemas import filters as sql
from app.schemas.filter_tree import And, Column, Condition, Filter, Normalized, Not, Op, Or

ONE_DAY = timedelta(days=1)


def compile_filter(filter: Filter, first_param: int) -> tuple[str, list[object]]:
    """The SQL expression and its parameters, numbered from ``first_param``.

    The expression reads ``d``, a row of documents, and ``c``, a row of chunks, if the filter ``references_chunks``.

    No text of the filter becomes part of the SQL: column names come from a table, everything else is a parameter.
    ``jsonb`` parameters are Python values; the connection's codec encodes them.
    """
    compiler = _Compiler(first_param)
    return compiler.expression(filter), compiler.params


class _Compiler:
    def __init__(self, first_param: int) -> None:
        self.params: list[object] = []
        self._first = first_param
        self._columns = sql.COLUMNS
        self._stored_metadata = sql.METADATA

    def expression(self, filter: Filter) -> str:
        match filter:
            case And(filters):
                return self._joined(" AND ", filters)
            case Or(filters):
                return self._joined(" OR ", filters)
            case Not(inner):
                return f"(NOT {self.expression(inner)})"
            case Normalized(inner):
                self._columns, self._stored_metadata = sql.NORMALIZED_COLUMNS, sql.NORMALIZED_METADATA
                return self.expression(inner)
            case Condition("ne", key, value):
                return self.expression(Not(Condition("eq", key, value)))
            case Condition("nin", key, value):
                return self.expression(Not(Condition("in", key, value)))
            case Condition("not_contains", key, value):
                return self.expression(Not(Condition("contains", key, value)))
            case Condition("exists" | "is_empty" as op, key, False):
                return self.expression(Not(Condition(op, key, True)))
            case Condition(op, key, value):
                if isinstance(key, Column):
                    return f"({self._column(op, self._columns[key.name], value)})"
                return f"({self._metadata(op, key.segments, value)})"

    def _joined(self, operator: str, filters: Sequence[Filter]) -> str:
        return f"({operator.join(self.expression(filter) for filter in filters)})"

    def _param(self, value: object, type: str) -> str:
        self.params.append(value)
        return f"${self._first + len(self.params) - 1}::{type}"

    def _column(self, op: Op, column: sql.ColumnShape, value: Any) -> str:
        match op, column.kind:
            case "exists", _:
                return sql.EXISTS.format(x=column.sql)
            case "is_empty", "tags":
                return sql.TAGS_EMPTY.format(x=column.sql)
            case "is_empty", "text":
                return sql.TEXT_EMPTY.format(x=column.sql)
            case "is_empty", _:
                return sql.NULL.format(x=column.sql)
            case "eq", _:
                condition = sql.COLUMN_EQUALS.format(x=column.sql, value=self._param(value, column.type))
            case "in", "tags":
                return sql.TAGS_IN.format(x=column.sql, values=self._param(value, "jsonb"))
            case "in", _:
                condition = sql.COLUMN_IN.format(x=column.sql, values=self._param(value, f"{column.type}[]"))
            case "contains", "tags":
                return sql.TAGS_CONTAIN.format(x=column.sql, value=self._param(value, "text"))
            case "contains_any", "tags":
                return sql.TAGS_ANY.format(x=column.sql, values=self._param(value, "text[]"))
            case "contains_all", "tags":
                return sql.TAGS_ALL.format(x=column.sql, values=self._param(value, "text[]"))
            case _ if op in _ON_TEXT:
                return self._on_text(op, column.sql, value)
            case _:
                operator, param = sql.OPERATORS[op], self._param(value, column.type)
                condition = sql.ORDERED.format(x=column.ordered, operator=operator, value=param)
        return condition if column.required else sql.NEVER_NULL.format(condition=condition)

    def _on_text(self, op: Op, x: str, value: Any) -> str:
        """The test of a text operator; false where ``x`` is NULL."""
        template, type = _ON_TEXT[op]
        if op == "icontains":
            value = any_case(value)
        param = self._param(value, type)
        return template.format(x=x, value=param, values=param)

    def _metadata(self, op: Op, segments: Sequence[str], value: Any) -> str:
        steps = "".join(sql.STEP.format(segment=self._param(segment, "text")) for segment in segments)
        metadata = self._stored_metadata
        x = f"({metadata}{steps})"
        match op:
            case "exists":
                return sql.EXISTS.format(x=x)
            case "eq" if not isinstance(value, datetime):
                nested = self._param(_nested(segments, value), "jsonb")
                return sql.JSON_EQUALS.format(metadata=metadata, x=x, steps=steps, nested=nested)
            case "in":
                return sql.JSON_IN.format(x=x, values=self._param(value, "jsonb"))
            case "is_empty":
                return sql.JSON_EMPTY.format(x=x)
            case "contains":
                nested = self._param(_nested(segments, [value]), "jsonb")
                found = sql.JSON_HAS_ELEMENT.format(metadata=metadata, x=x, steps=steps, nested=nested)
                if isinstance(value, str):
                    found += " OR " + sql.JSON_HAS_TEXT.format(x=x, value=self._param(value, "text"))
                return found
            case "contains_any":
                each = self._param([_nested(segments, [item]) for item in value], "jsonb[]")
                values = self._param(value, "jsonb")
                found = sql.JSON_HAS_ANY.format(metadata=metadata, x=x, nested=each, values=values)
                texts = [item for item in value if isinstance(item, str)]
                return f"{found} OR {self._on_json_text(op, x, texts)}" if texts else found
            case "contains_all":
                nested, values = self._param(_nested(segments, value), "jsonb"), self._param(value, "jsonb")
                found = sql.JSON_HAS_ALL.format(metadata=metadata, x=x, nested=nested, values=values)
                every_text = all(isinstance(item, str) for item in value)
                return f"{found} OR {self._on_json_text(op, x, value)}" if every_text else found
            case _ if op in _ON_TEXT:
                return self._on_json_text(op, x, value)
        if isinstance(value, datetime):
            first, last = (self._param(day, "text") for day in _days(op, value))
            value = self._param(value, "timestamptz")
            return sql.JSON_TIME.format(x=x, first=first, last=last, operator=sql.OPERATORS[op], value=value)
        if isinstance(value, str):
            template, type = sql.JSON_TEXT_ORDERED, "text"
        else:
            template, type = sql.JSON_NUMBER_ORDERED, "jsonb"
        return template.format(x=x, operator=sql.OPERATORS[op], value=self._param(value, type))

    def _on_json_text(self, op: Op, x: str, value: Any) -> str:
        return sql.JSON_TEXT.format(x=x, condition=self._on_text(op, sql.JSON_AS_TEXT.format(x=x), value))


_ON_TEXT: dict[str, tuple[str, str]] = {
    "contains": (sql.TEXT_CONTAINS, "text"),
    "contains_any": (sql.TEXT_ANY, "text[]"),
    "contains_all": (sql.TEXT_ALL, "text[]"),
    "icontains": (sql.TEXT_MATCHES, "text"),
    "starts_with": (sql.TEXT_STARTS, "text"),
    "ends_with": (sql.TEXT_ENDS, "text"),
}


@cache
def _letters() -> dict[str, str]:
    """By case-folded letter, all letters that fold to it, where there is more than one."""
    found: dict[str, str] = {}
    for letter in map(chr, range(0x20000)):  # Letters above this have no case.
        if (folded := letter.casefold()) != letter:
            found[folded] = found.get(folded, "") + letter
    return {
        folded: (folded if len(folded) == 1 else "") + letters
        for folded, letters in found.items()
        if len(folded) == 1 or len(letters) > 1
    }


def any_case(text: str) -> str:
    """A PostgreSQL regular expression that matches this text in any case, letter by letter."""
    parts = []
    for char in text:
        if letters := _letters().get(char.casefold()):
            parts.append(f"[{letters}]")
        else:
            parts.append(f"\\{char}" if char.isascii() and not char.isalnum() else char)
    return "".join(parts)


def _days(op: Op, moment: datetime) -> tuple[str, str]:
    """First and last day, in ISO 8601, that a string may start with if its time can pass the comparison in any zone."""
    first = moment.date() - ONE_DAY if moment.date() > date.min else date.min
    last = moment.date() + ONE_DAY if moment.date() < date.max else date.max
    if op in ("gt", "gte"):
        last = date.max
    elif op in ("lt", "lte"):
        first = date.min
    return first.isoformat(), last.isoformat()


def _nested(segments: Sequence[str], value: Any) -> Any:
    for segment in reversed(segments):
        value = {segment: value}
    return value
