"""The audit of pinned packages in scripts/check, against a stub of OSV."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.milvus_server import free_ports
from tests.operations.conftest import ROOT

VULNERABILITY = {
    "schema_version": "1.0.0",
    "id": "PYSEC-2026-1",
    "summary": "reads too much",
    "affected": [
        {
            "package": {"name": "leaky", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


@contextmanager
def advisories(*, fails_after: int | None = None) -> Iterator[str]:
    """A stub of OSV that knows one vulnerability, of leaky 1.0."""
    asked = 0

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal asked
            asked += 1
            question = json.loads(self.rfile.read(int(self.headers["content-length"])))
            leaks = (question["package"]["name"], question["version"]) == ("leaky", "1.0")
            content = json.dumps({"vulns": [VULNERABILITY]} if leaks else {}).encode()
            self.send_response(500 if fails_after is not None and asked > fails_after else 200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    return tmp_path / "requirements.txt"


def audit(service: str, *files: Path) -> tuple[int, list[str]]:
    command = [sys.executable, "-m", "scripts.audit", "--service", service, *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_a_known_vulnerability_fails_the_check(requirements: Path) -> None:
    requirements.write_text("sound==2.0\nleaky==1.0\n")
    with advisories() as service:
        assert audit(service, requirements) == (1, ["audit: leaky 1.0 has PYSEC-2026-1, fixed in 1.1"])


def test_a_fixed_release_passes(requirements: Path) -> None:
    requirements.write_text("sound==2.0\nleaky==1.1\n")
    with advisories() as service:
        assert audit(service, requirements) == (0, ["audit: no known vulnerability in 2 packages"])


def test_a_package_without_a_pin_fails_the_check(requirements: Path) -> None:
    requirements.write_text("leaky>=1.0\n")
    with advisories() as service:
        status, lines = audit(service, requirements)
    assert status == 1
    assert lines[0].startswith("audit: pip-audit failed: ")


def test_every_requirements_file_is_audited() -> None:
    pinned = {
        line.split("==")[0].partition("[")[0].lower().replace("_", "-")
        for file in (ROOT / "requirements").glob("*.txt")
        for line in file.read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    with advisories() as service:
        assert audit(service) == (0, [f"audit: no known vulnerability in {len(pinned)} packages"])


@pytest.mark.parametrize("fails_after", [0, 1])
def test_a_failing_service_does_not_fail_the_check(requirements: Path, fails_after: int) -> None:
    requirements.write_text("sound==2.0\n")
    with advisories(fails_after=fails_after) as service:
        status, lines = audit(service, requirements)
    assert status == 0
    assert len(lines) == 1
    assert lines[0].startswith(f"audit: skipped, {service} does not answer")


def test_no_network_does_not_fail_the_check(requirements: Path) -> None:
    requirements.write_text("leaky==1.0\n")
    (port,) = free_ports(1)
    status, lines = audit(f"http://127.0.0.1:{port}/v1/query", requirements)
    assert status == 0
    assert lines == [
        f"audit: skipped, http://127.0.0.1:{port}/v1/query does not answer ([Errno 111] Connection refused)"
    ]
