"""Sessions that make a bot equal to the documents of a client."""

from migrations.sql_file import run_sql_file

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    run_sql_file("0022_sync_sessions.sql")
