"""vector_gc knows the document of each generation."""

from migrations.sql_file import run_sql_file

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql_file("0003_vector_gc_doc_id.sql")
