"""Packages that one route needs are imported at its first request: they would make each start slower."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["mcp", "jsonschema", "httpx2"])
def test_the_application_does_not_import(package: str) -> None:
    code = f"import sys, app.main; sys.exit({package!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
