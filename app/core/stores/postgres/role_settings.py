"""Behind a pooler: the settings that a session of our own would have come from the role."""

from app.core.stores.postgres.database import PLANNER_SETTINGS, Database, Guards
from app.schemas.queries import SQL
from app.utils.errors import DatabaseUnavailable, StartupError


async def check_role_settings(db: Database, guards: Guards) -> None:
    """Raises StartupError when the pooler pools statements, or the role's settings are not what the server needs.

    Raises DatabaseUnavailable. Where there is no pooler, each session is given its settings and nothing is checked.
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
                "The pooler before PostgreSQL pools statements, and the server needs transactions: "
                "set its pool_mode to transaction."
            ) from exc
        raise
    if rows:
        raise StartupError(
            "A pooler stands before PostgreSQL and passes no settings of a session on, so they have to be the role's. "
            f"Run: {'; '.join(row['statement'] for row in rows)}; then RECONNECT in the pooler's console."
        )
