"""Behind a pooler, sessions take the settings that the server needs from its role. Checks them."""

from app.core.stores.postgres.database import PLANNER_SETTINGS, Database, Guards
from app.schemas.queries import SQL
from app.utils.errors import DatabaseUnavailable, StartupError


async def check_role_settings(db: Database, guards: Guards) -> None:
    """Raises StartupError when the pooler pools statements, or the role's settings are not what the server needs.

    Raises DatabaseUnavailable. Without a pooler each session sets them itself, and nothing is checked.
    """
    if not db.pooled:
        return
    wanted = {**PLANNER_SETTINGS, **guards.server_settings()}
    try:
        async with db.transaction() as conn:
            rows = await conn.fetch(SQL["missing_role_settings"], list(wanted), list(wanted.values()))
    except DatabaseUnavailable as exc:
        if "statement pooling" in str(exc.__cause__):
            raise StartupError(
                "The pooler in front of PostgreSQL pools statements, but the server needs transactions: "
                "set its pool_mode to transaction."
            ) from exc
        raise
    if rows:
        raise StartupError(
            "The pooler in front of PostgreSQL does not forward the settings of sessions, so the role needs them. "
            f"Run: {'; '.join(row['statement'] for row in rows)}; then RECONNECT in the pooler's console."
        )
