"""Which process moves a bot to another model, as a row."""

from migrations.sql_file import run_sql_file

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql_file("0004_reembed_leases.sql")
