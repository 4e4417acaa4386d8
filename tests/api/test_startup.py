"""What keeps the server from starting is told in one line."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from app.config import Settings

ROOT = Path(__file__).resolve().parents[2]


def test_a_startup_error_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    environment |= {"DATA_DIR": str(tmp_path / "file" / "data"), "PORT": str(port), "PYTHONPATH": str(ROOT)}
    server = subprocess.run(
        [sys.executable, "-m", "app.serve"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    errors = [line for line in server.stderr.splitlines() if not line.startswith("INFO")]
    assert server.returncode != 0
    assert errors[0].startswith(f"ERROR:    DATA_DIR {tmp_path / 'file' / 'data'} cannot be written")
    assert errors[1:] == ["ERROR:    Application startup failed. Exiting."]
