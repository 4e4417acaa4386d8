"""Sessions that make a bot equal to the documents of a client."""

from migrations.sql_file import run_sql_file

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    run_sql_file("0021_sync_sessions.sql")
