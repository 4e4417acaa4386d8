"""ListingPort on PostgreSQL: ``documents``."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from app.core.stores.postgres.database import Database
from app.core.stores.postgres.documents import document_of, filtered
from app.core.stores.postgres.tenant_guard import only_bot
from app.schemas import filters, listing
from app.schemas.filter_tree import Column, Filter
from app.schemas.listing import FacetKey, Facets, FacetValue, ListedDocument, Order, Place
from app.schemas.queries import SQL


class ListingStore:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def query(
        self,
        bot_id: UUID,
        where: Filter | None,
        order: Order,
        after: Place | None,
        limit: int,
        *,
        in_nfc: bool = True,
    ) -> Sequence[ListedDocument]:
        column = _columns(in_nfc)[order.key]
        found: list[ListedDocument] = []
        if after is None or after.value is not None:
            found += await self._page(bot_id, where, order, column, after, limit, present=True)
        if not column.required and len(found) < limit:
            after = after if after and after.value is None else None
            found += await self._page(bot_id, where, order, column, after, limit - len(found), present=False)
        return found

    async def _page(
        self,
        bot_id: UUID,
        where: Filter | None,
        order: Order,
        column: filters.ColumnShape,
        after: Place | None,
        limit: int,
        *,
        present: bool,
    ) -> list[ListedDocument]:
        """Documents whose column has a value, or those whose column is NULL, in the order of their doc_id."""
        statement = _Statement("query_documents", [bot_id, limit])
        statement.sort(order, column, after, present)
        statement.filter(where)
        rows = only_bot(await self._db.fetch(statement.sql, *statement.values), bot_id)
        return [_listed(row) for row in rows]

    async def count(self, bot_id: UUID, where: Filter | None) -> int:
        statement = _Statement("count_documents", [bot_id])
        statement.filter(where)
        row = await self._db.fetchrow(statement.sql, *statement.values)
        return int(row["documents"]) if row else 0

    async def facets(
        self, bot_id: UUID, where: Filter | None, key: FacetKey, limit: int, *, in_nfc: bool = True
    ) -> Facets:
        statement = _Statement("facets_of_tags" if key == Column("tags") else "facets", [bot_id, limit])
        statement.key(key, in_nfc)
        statement.filter(where)
        rows = only_bot(await self._db.fetch(statement.sql, *statement.values), bot_id)
        if not rows:
            return Facets([], 0, 0)
        values = [FacetValue(row["value"], row["documents"]) for row in rows]
        others = rows[0]["all_documents"] - sum(value.documents for value in values)
        return Facets(values, rows[0]["all_values"] - len(values), others)


class _Statement:
    """A statement of queries.sql whose placeholders are filled in, and its values. No value becomes part of the SQL."""

    def __init__(self, name: str, values: list[Any]) -> None:
        self.sql = SQL[name]
        self.values = values

    def filter(self, where: Filter | None) -> None:
        self.sql, values = filtered(self.sql, where, first_param=len(self.values) + 1)
        self.values += values

    def sort(self, order: Order, column: filters.ColumnShape, after: Place | None, present: bool) -> None:
        x, by_id = column.ordered, order.key == "doc_id" or not present
        direction = " DESC" if order.descending else ""
        order_by = (listing.ORDER_BY_DOC_ID if by_id else listing.ORDER_BY).format(x=x, direction=direction)
        self.sql = self.sql.replace("/*sorted*/ d.doc_id", x).replace("/*order*/ d.doc_id", order_by)
        condition = "true"
        if after is not None:
            condition = (listing.AFTER_DOC_ID if by_id else listing.AFTER).format(
                x=x,
                operator="<" if order.descending else ">",
                value="" if by_id else self._param(after.value, column.type),
                doc_id=self._param(after.doc_id, "bigint"),
            )
        if not column.required:
            condition = (listing.PRESENT if present else listing.ABSENT).format(column=column.sql, after=condition)
        self.sql = self.sql.replace("/*after*/ true", condition)

    def key(self, key: FacetKey, in_nfc: bool) -> None:
        if isinstance(key, Column):
            held, template = _columns(in_nfc)[key.name].sql, listing.FACET_OF_TEXT
        else:
            metadata = filters.METADATA if in_nfc else filters.NORMALIZED_METADATA
            steps = "".join(filters.STEP.format(segment=self._param(name, "text")) for name in key.segments)
            held, template = listing.FACET_JSON.format(metadata=metadata, steps=steps), listing.FACET_OF_JSON
        values = template.format(longest=listing.FACET_CHARS)
        self.sql = self.sql.replace("/*key*/ d.title", held).replace("/*key*/ d.tags", held)
        self.sql = self.sql.replace("/*values*/ SELECT g.held AS value", values)

    def _param(self, value: object, type: str) -> str:
        self.values.append(value)
        return f"${len(self.values)}::{type}"


def _columns(in_nfc: bool) -> dict[str, filters.ColumnShape]:
    return filters.COLUMNS if in_nfc else filters.NORMALIZED_COLUMNS


def _listed(row: Any) -> ListedDocument:
    return ListedDocument(document_of(row), Place(row["sort_value"], row["doc_id"]))
