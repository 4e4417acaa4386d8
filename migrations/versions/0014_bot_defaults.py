"""Search options of a bot."""

from migrations.sql_file import run_sql_file

revision = "0014"
down_revision = "0012"


def upgrade() -> None:
    run_sql_file("0014_bot_defaults.sql")
