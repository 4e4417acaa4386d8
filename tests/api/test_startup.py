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
    assert server.returncode == 2
    assert server.stderr == f"DATA_DIR {tmp_path / 'file' / 'data'} cannot be written: choose another folder.\n"


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment |= {
            "PORT": str(taken.getsockname()[1]),
            "POSTGRES_PORT": "none",
            "MAX_BUFFERED_BYTES": "1048576",
            "LOG_LEVEL": "LOUD",
            "RATE_LIMIT": "many",
            "EMBEDDING_MODEL": "sentence-bert",
            "POSTGRES_PASSWORD": "hunter2",
            "PYTHONPATH": str(ROOT),
        }
        server = subprocess.run(
            [sys.executable, "-m", "app.serve"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert server.returncode == 2
    found = [line.partition(" ")[0].rstrip(":") for line in server.stderr.splitlines()]
    assert sorted(found) == [
        "Cannot",
        "LOG_LEVEL",
        "MAX_BUFFERED_BYTES",
        "POSTGRES_PORT",
        "RATE_LIMIT",
        "SENTENCE_BERT_MODEL",
    ]
    assert "hunter2" not in server.stderr
