"""Partitions are made and dropped with the owner's rights, in the tables' schema."""

from migrations.sql_file import run_sql_file

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_sql_file("0005_partitions_by_the_owner.sql")
