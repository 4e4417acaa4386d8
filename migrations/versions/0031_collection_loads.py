"""Which collections are in Milvus's memory."""

from migrations.sql_file import run_sql_file

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    run_sql_file("0031_collection_loads.sql")
