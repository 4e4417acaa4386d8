"""Typed filters on documents and their translation to SQL.

A filter is true or false of a document, never unknown:

- ``eq``: the key holds this very JSON value. Types count: 1 equals 1.0, but neither "1" nor true; null equals an
  explicit null. A missing key equals nothing. ``ne`` is exactly not ``eq``, so a missing key passes it.
- ``gt gte lt lte``: numbers against numbers, strings against strings by code point, times against times; false for
  any other type and for a missing key.
- ``in``: ``eq`` any of a list; ``nin`` is exactly not ``in``.
- ``contains``: the key holds an array with an element that equals the value, or both are strings and the key's has
  the other inside (case counts); else false. ``tags`` contain a tag.
- ``exists``: the key is there (a null in metadata counts as there, an empty column does not); with false, it is not.

A path goes through nested objects only: nothing matches inside an array but ``contains``.

All text is compared in NFC. The filter's own is so already; ``Normalized`` marks a filter on rows that may not be.
"""

from collections.abc import Sequence
from typing import Any

from app.schemas import filters as sql
from app.schemas.filter_tree import And, Column, Condition, Filter, Normalized, Not, Op, Or


def compile_filter(filter: Filter, first_param: int) -> tuple[str, list[object]]:
    """A boolean SQL expression on ``d``, a row of documents, and its parameters from $first_param on.

    No text of the filter's enters the SQL: names of columns come from a table, all else are parameters. ``jsonb``
    parameters are Python values, to be encoded by the connection's codec.
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
            case Condition("exists", key, False):
                return self.expression(Not(Condition("exists", key, True)))
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
            case "eq", _:
                condition = sql.COLUMN_EQUALS.format(x=column.sql, value=self._param(value, column.type))
            case "in", "tags":
                return sql.TAGS_IN.format(x=column.sql, values=self._param(value, "jsonb"))
            case "in", _:
                condition = sql.COLUMN_IN.format(x=column.sql, values=self._param(value, f"{column.type}[]"))
            case "contains", "tags":
                return sql.TAGS_CONTAIN.format(x=column.sql, value=self._param(value, "text"))
            case "contains", _:
                return sql.TEXT_CONTAINS.format(x=column.sql, value=self._param(value, "text"))
            case _:
                operator, param = sql.OPERATORS[op], self._param(value, column.type)
                condition = sql.ORDERED.format(x=column.ordered, operator=operator, value=param)
        return condition if column.required else sql.NEVER_NULL.format(condition=condition)

    def _metadata(self, op: Op, segments: Sequence[str], value: Any) -> str:
        steps = "".join(sql.STEP.format(segment=self._param(segment, "text")) for segment in segments)
        metadata = self._stored_metadata
        x = f"({metadata}{steps})"
        match op:
            case "exists":
                return sql.EXISTS.format(x=x)
            case "eq":
                nested = self._param(_nested(segments, value), "jsonb")
                return sql.JSON_EQUALS.format(metadata=metadata, x=x, steps=steps, nested=nested)
            case "in":
                return sql.JSON_IN.format(x=x, values=self._param(value, "jsonb"))
            case "contains":
                nested = self._param(_nested(segments, [value]), "jsonb")
                found = sql.JSON_HAS_ELEMENT.format(metadata=metadata, x=x, steps=steps, nested=nested)
                if isinstance(value, str):
                    found += " OR " + sql.JSON_HAS_TEXT.format(x=x, value=self._param(value, "text"))
                return found
        if isinstance(value, str):
            template, type = sql.JSON_TEXT_ORDERED, "text"
        else:
            template, type = sql.JSON_NUMBER_ORDERED, "jsonb"
        return template.format(x=x, operator=sql.OPERATORS[op], value=self._param(value, type))


def _nested(segments: Sequence[str], value: Any) -> Any:
    for segment in reversed(segments):
        value = {segment: value}
    return value
