"""Asks OSV, by pip-audit, whether a package pinned in requirements/ has a known vulnerability.

Exits 1 when one has, or when the files cannot be audited. When the service cannot be reached, it prints one line and
exits 0, so that work without a network can go on. Nothing is resolved or installed.
"""

import argparse
import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SERVICE = "https://api.osv.dev/v1/query"
TIMEOUT = 3
"""Seconds for one request."""
TOTAL_TIMEOUT = 60
UNAVAILABLE = ("requests.exceptions.", "ServiceError", "Could not connect")
"""Parts of pip-audit's last line when the service fails."""


def audit(files: list[Path], service: str = SERVICE) -> int:
    if reason := _unavailable(service):
        return _skipped(service, reason)
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", "osv", "--osv-url", service]
    command += ["--no-deps", "--disable-pip", "--progress-spinner", "off"]
    command += ["--timeout", str(TIMEOUT), "--format", "json"]
    for file in files:
        command += ["--requirement", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TOTAL_TIMEOUT)
    except subprocess.TimeoutExpired:
        return _skipped(service, f"not done after {TOTAL_TIMEOUT} seconds")
    if not done.stdout:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if any(sign in done.stderr for sign in UNAVAILABLE):
            return _skipped(service, last)
        print(f"audit: pip-audit failed: {last}")
        return 1
    packages = json.loads(done.stdout)["dependencies"]
    found = [(package, flaw) for package in packages for flaw in package.get("vulns", ())]
    for package, flaw in found:
        fixed = ", ".join(flaw["fix_versions"]) or "no release yet"
        print(f"audit: {package['name']} {package['version']} has {flaw['id']}, fixed in {fixed}")
    if not found:
        print(f"audit: no known vulnerability in {len(packages)} packages")
    return 1 if found or done.returncode else 0


def _unavailable(service: str) -> str:
    """Why the service does not answer, or an empty string."""
    question = json.dumps({"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "0"}).encode()
    request = urllib.request.Request(service, question, {"Content-Type": "application/json"})  # noqa: S310 - by argument
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
            answer.read()
    except OSError as exc:
        return str(getattr(exc, "reason", exc))
    return ""


def _skipped(service: str, reason: str) -> int:
    print(f"audit: skipped, {service} does not answer ({reason})")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, default=sorted((ROOT / "requirements").glob("*.txt")))
    parser.add_argument("--service", default=SERVICE, help="a service with OSV's API")
    options = parser.parse_args()
    sys.exit(audit(options.files, options.service))
