"""Whether the server's role may do what the server does."""

from app.core.stores.postgres.database import Database
from app.schemas.queries import SQL
from app.utils.errors import StartupError


async def check_rights(db: Database, role: str) -> None:
    """Raises StartupError, which names each right that the role lacks, and DatabaseUnavailable."""
    missing = [row["missing"] for row in await db.fetch(SQL["missing_rights"])]
    if missing:
        raise StartupError(
            f"PostgreSQL does not allow role {role} what the server does. Missing: {', '.join(missing)}. "
            "The tables' owner grants them; migrations/roles.sql does it all."
        )
