"""Quotas of accounts."""

from migrations.sql_file import run_sql_file

revision = "0030"
down_revision = "0028"


def upgrade() -> None:
    run_sql_file("0030_quotas.sql")
