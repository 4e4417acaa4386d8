"""The order in which scripts/test runs the test files: unit tests, then the longest files, then the others.

Unit tests give the first results early. A file runs in one process, so that a long file that began late would run alone
at the end.
"""

from pathlib import PurePosixPath

UNIT = PurePosixPath("tests/unit")
LONGEST = (
    "tests/outages/test_lost_vectors.py",
    "tests/api/test_isolation.py",
    "tests/operations/test_wrong_setups.py",
    "tests/integration/test_restore.py",
    "tests/simulation/test_simulation.py",
    "tests/chaos/test_failpoints.py",
    "tests/integration/test_model_migration.py",
    "tests/operations/test_stopping.py",
    "tests/integration/test_filters_search.py",
    "tests/integration/test_embedded.py",
    "tests/api/test_keys.py",
    "tests/integration/test_crashes.py",
    "tests/browser/test_docs.py",
    "tests/contract/test_current_results.py",
    "tests/chaos/test_checker.py",
    "tests/api/test_fast_route.py",
    "tests/table/test_table.py",
    "tests/outages/test_full_disk.py",
    "tests/operations/test_backup.py",
    "tests/outages/test_outages.py",
    "tests/api/test_external_ids.py",
    "tests/api/test_embeddings.py",
    "tests/contract/test_bot_store.py",
    "tests/operations/test_keys.py",
    "tests/outages/test_changing_documents.py",
    "tests/operations/test_servers.py",
)
"""The files that take longest, the longest first: ``scripts/test --junitxml FILE`` measures them."""


def position(file: str) -> int:
    """The rank of a test file, relative to the root of the project. Files of one rank keep their order."""
    if PurePosixPath(file).is_relative_to(UNIT):
        return 0
    return LONGEST.index(file) + 1 if file in LONGEST else len(LONGEST) + 1
