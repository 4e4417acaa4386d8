"""The SQL of filters: the columns that a key may name, and a template for each operator.

Templates are filled with other templates and with casts of parameters such as ``$3::jsonb``, never with a value. A
filled template is TRUE or FALSE, never NULL, so NOT is exact. ``d`` is a row of documents, ``c`` one of their chunks.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

Kind = Literal["text", "tags", "time", "integer"]


@dataclass(frozen=True, slots=True)
class ColumnShape:
    """A column that filters may test.

    ``sql``: its expression. ``type``: the SQL type of the values it is compared with. ``ordered``: its expression in
    comparisons of order. ``required``: it is never NULL, so a comparison needs no COALESCE and can use an index.
    """

    sql: str
    kind: Kind
    type: str
    ordered: str = ""
    required: bool = False


COLUMNS: Final[dict[str, ColumnShape]] = {
    # COLLATE "C": by code point, in every locale of the database.
    "title": ColumnShape("d.title", "text", "text", 'd.title COLLATE "C"', required=True),
    "file_path": ColumnShape("d.file_path", "text", "text", 'd.file_path COLLATE "C"'),
    "file_type": ColumnShape("d.file_type", "text", "text", 'd.file_type COLLATE "C"'),
    "author": ColumnShape("d.author", "text", "text", 'd.author COLLATE "C"'),
    "external_id": ColumnShape("d.external_id", "text", "text", 'd.external_id COLLATE "C"'),
    "tags": ColumnShape("d.tags", "tags", "text[]", required=True),
    "created_at": ColumnShape("d.created_at", "time", "timestamptz", "d.created_at", required=True),
    "updated_at": ColumnShape("d.updated_at", "time", "timestamptz", "d.updated_at", required=True),
    "doc_id": ColumnShape("d.doc_id", "integer", "bigint", "d.doc_id", required=True),
    "page_number": ColumnShape("c.page_number", "integer", "bigint", "c.page_number"),
}

# For rows that may have been stored before text was put into NFC: normalized as they are read, without any index.
NORMALIZED_TEXT: Final = "normalize({x}, NFC)"
NORMALIZED_TAGS: Final = "nfc_array({x})"
NORMALIZED_METADATA: Final = "nfc_jsonb(d.metadata)"


def _normalized(column: ColumnShape) -> ColumnShape:
    if column.kind == "tags":
        return replace(column, sql=NORMALIZED_TAGS.format(x=column.sql))
    if column.kind != "text":
        return column
    text = NORMALIZED_TEXT.format(x=column.sql)
    return replace(column, sql=text, ordered=column.ordered.replace(column.sql, text))


NORMALIZED_COLUMNS: Final = {name: _normalized(column) for name, column in COLUMNS.items()}

OPERATORS: Final = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}

COLUMN_EQUALS: Final = "{x} = {value}"
COLUMN_IN: Final = "{x} = ANY ({values})"
# SQL has no arrays of arrays of different lengths, so lists of tags are passed as JSON.
TAGS_IN: Final = "to_jsonb({x}) IN (SELECT jsonb_array_elements({values}))"
TAGS_CONTAIN: Final = "{x} @> ARRAY[{value}]"
TAGS_ANY: Final = "{x} && {values}"
TAGS_ALL: Final = "{x} @> {values}"
TEXT_CONTAINS: Final = "COALESCE(strpos({x}, {value}) > 0, FALSE)"
TEXT_ANY: Final = "EXISTS (SELECT FROM unnest({values}) AS v (part) WHERE strpos({x}, part) > 0)"
TEXT_ALL: Final = (
    "({x} IS NOT NULL AND NOT EXISTS (SELECT FROM unnest({values}) AS v (part) WHERE strpos({x}, part) = 0))"
)
TEXT_STARTS: Final = "COALESCE(starts_with({x}, {value}), FALSE)"
TEXT_ENDS: Final = "COALESCE(right({x}, length({value})) = {value}, FALSE)"
# By code point: the pattern itself lists the other cases of each letter, so the locale does not matter.
TEXT_MATCHES: Final = 'COALESCE({x} COLLATE "C" ~ {value}, FALSE)'
TEXT_EMPTY: Final = "COALESCE({x} = '', TRUE)"
TAGS_EMPTY: Final = "cardinality({x}) = 0"
NULL: Final = "{x} IS NULL"
ORDERED: Final = "{x} {operator} {value}"
NEVER_NULL: Final = "COALESCE({condition}, FALSE)"
EXISTS: Final = "{x} IS NOT NULL"

# Unlike #>, -> with a text never indexes an array: "0" is only the name of a key.
METADATA: Final = "d.metadata"
STEP: Final = " -> {segment}"
# A value is passed inside a container, because a parameter of None is NULL and not the JSON null. Containment can use
# the GIN index, but is not equality: [1, 2] contains [1].
JSON_EQUALS: Final = "{metadata} @> {nested} AND COALESCE({x} = ({nested}{steps}), FALSE)"
JSON_IN: Final = "COALESCE({x} IN (SELECT jsonb_array_elements({values})), FALSE)"
JSON_NUMBER_ORDERED: Final = "COALESCE(jsonb_typeof({x}) = 'number' AND {x} {operator} {value}, FALSE)"
JSON_TEXT_ORDERED: Final = (
    "COALESCE(jsonb_typeof({x}) = 'string' AND ({x} #>> '{{}}') COLLATE \"C\" {operator} {value}, FALSE)"
)
JSON_HAS_ELEMENT: Final = (
    "{metadata} @> {nested} AND EXISTS ("
    "SELECT FROM jsonb_array_elements(CASE WHEN jsonb_typeof({x}) = 'array' THEN {x} END) AS e (element)"
    " WHERE element = ({nested}{steps} -> 0))"
)
JSON_HAS_ANY: Final = (
    "{metadata} @> ANY ({nested}) AND EXISTS ("
    "SELECT FROM jsonb_array_elements(CASE WHEN jsonb_typeof({x}) = 'array' THEN {x} END) AS e (element)"
    " WHERE element IN (SELECT jsonb_array_elements({values})))"
)
JSON_HAS_ALL: Final = (
    "{metadata} @> {nested} AND NOT EXISTS ("
    "SELECT FROM jsonb_array_elements({values}) AS v (wanted) WHERE NOT EXISTS ("
    "SELECT FROM jsonb_array_elements(CASE WHEN jsonb_typeof({x}) = 'array' THEN {x} END) AS e (element)"
    " WHERE element = wanted))"
)
JSON_TEXT: Final = "(jsonb_typeof({x}) IS NOT DISTINCT FROM 'string' AND {condition})"
JSON_AS_TEXT: Final = "({x} #>> '{{}}')"
JSON_EMPTY: Final = "COALESCE({x} IN ('null', '\"\"', '[]', '{{}}'), TRUE)"
# The written day is at most one day away from the day in UTC. Comparing it first is enough for most strings.
JSON_TIME: Final = (
    "COALESCE(jsonb_typeof({x}) = 'string' AND left({x} #>> '{{}}', 10) COLLATE \"C\" BETWEEN {first} AND {last}"
    " AND iso_time({x} #>> '{{}}') {operator} timezone('UTC', {value}), FALSE)"
)
JSON_HAS_TEXT: Final = "COALESCE(jsonb_typeof({x}) = 'string' AND strpos({x} #>> '{{}}', {value}) > 0, FALSE)"
