"""After a restore of PostgreSQL: what Milvus may hold of bots that no count shows."""

from migrations.sql_file import run_sql_file

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_sql_file("0009_restored_bots.sql")
