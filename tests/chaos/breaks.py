"""One line of the design broken on purpose, in this process alone, to show that the tester would notice.

``lite-write-lock`` is broken in Milvus Lite's own process: see broken_lite.py.
"""

from app.schemas.queries import SQL

LITE_WRITE_LOCK = "lite-write-lock"
_REPLACEMENTS = {
    # Readers take whatever version of a document has chunks.
    "generation-join": {
        "visible_chunks": (" AND d.generation = c.chunk_id >> 16", ""),
        "get_document_chunks": (" AND c.chunk_id >> 16 = d.generation", ""),
    },
    # A generation's vectors are deleted once, and nobody looks again.
    "gc-once": {"claim_garbage": ("now() >= g.not_before AS settled", "true AS settled")},
    # T2 goes on whoever has taken the saga meanwhile.
    "lease-check": {
        "hold_leases": (
            "SELECT generation FROM sagas\nWHERE generation = ANY ($1::bigint[]) AND lease_token = $2\n"
            "ORDER BY generation\nFOR UPDATE",
            "SELECT generation FROM unnest($1::bigint[]) AS g (generation) WHERE $2::uuid IS NOT NULL",
        )
    },
}
NAMES = (*_REPLACEMENTS, LITE_WRITE_LOCK)


def break_statements(name: str) -> None:
    for statement, (old, new) in _REPLACEMENTS.get(name, {}).items():
        if old not in SQL[statement]:
            raise LookupError(f"{statement} has changed: {name} breaks nothing any more")
        SQL[statement] = SQL[statement].replace(old, new)
