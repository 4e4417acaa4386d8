"""Checks whether the server's role has the rights that the server needs."""

from app.core.stores.postgres.database import Database
from app.schemas.queries import SQL
from app.utils.errors import StartupError


async def check_rights(db: Database, role: str) -> None:
    """Raises StartupError with each right that the role lacks, and DatabaseUnavailable."""
    missing = [row["missing"] for row in await db.fetch(SQL["missing_rights"])]
    if missing:
        raise StartupError(
            f"Role {role} lacks rights in PostgreSQL that the server needs. Missing: {', '.join(missing)}. "
            "The tables' owner can grant them; migrations/roles.sql grants all."
        )
