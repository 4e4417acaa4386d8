"""Blocks of generations, reserved in Milvus before they are used."""

from migrations.sql_file import run_sql_file

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_sql_file("0007_generation_blocks.sql")
