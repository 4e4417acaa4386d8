"""Checks that each pin in requirements/ has a wheel for every Python and platform.

Asks pip, and so the index that pip is set up with, for each Python and platform. Nothing is installed. Exits 1 when a
wheel is missing for a Python that scripts/setup takes. It takes minutes, and is
not part of .ci/run, as the index changes.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
FILES = ["server.txt", "redis.txt", "tracing.txt"]
NEWEST = (3, 15)
"""The newest Python that was released."""
PLATFORMS = {
    "Linux x86-64": [f"manylinux_2_{minor}_x86_64" for minor in range(28, 16, -1)] + ["manylinux2014_x86_64"],
    "Linux ARM64": [f"manylinux_2_{minor}_aarch64" for minor in range(28, 16, -1)] + ["manylinux2014_aarch64"],
    "macOS ARM64": ["macosx_14_0_arm64"],
}
"""With glibc 2.28 (Debian 10, RHEL 8) or newer, and macOS 14."""
NOT_FOUND = re.compile(r"No matching distribution found for (\S+)")


def pins(files: Sequence[str]) -> list[str]:
    """The requirements of files below requirements/; beside an extra named binary, the package that it brings."""
    found = []
    for file in files:
        for line in (ROOT / "requirements" / file).read_text(encoding="utf-8").splitlines():
            pin = line.partition("#")[0].partition(";")[0].strip()
            if pin and not pin.startswith("-"):
                found.append(pin)
                if "[binary]" in pin:
                    found.append(pin.replace("[binary]", "-binary"))
    return found


def offered() -> tuple[int, int]:
    """The newest Python that scripts/setup looks for."""
    text = (ROOT / "scripts" / "setup").read_text(encoding="utf-8")
    return max((int(major), int(minor)) for major, minor in re.findall(r"\bpython(\d)\.(\d+)\b", text))


def missing(python: str, platforms: Sequence[str], wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """The pins without a wheel, and of the others those whose wheel is for this platform or Python alone.

    pip stops at the first that is missing, so it is asked again without that one.
    """
    left, gone = list(wanted), []
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    command += ["--report", "-"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--target", "unused", "--python-version", python]
    command += [part for platform in platforms for part in ("--platform", platform)]
    while left:
        done = subprocess.run([*command, *left], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            files = [entry["download_info"]["url"].rpartition("/")[2] for entry in json.loads(done.stdout)["install"]]
            compiled = {
                canonicalize_name(file.partition("-")[0]) for file in files if not file.endswith("-none-any.whl")
            }
            return gone, [pin for pin in left if canonicalize_name(Requirement(pin).name) in compiled]
        found = NOT_FOUND.search(done.stderr)
        if found is None or found[1] not in left:
            raise SystemExit(f"pip failed: {done.stderr.strip().splitlines()[-1]}")
        left.remove(found[1])
        gone.append(found[1])
    return gone, []


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/wheels", description=__doc__)
    parser.add_argument("files", nargs="*", default=FILES, help=f"in requirements/ (default: {' '.join(FILES)})")
    wanted = pins(parser.parse_args().files)
    targets = [(minor, name) for minor in range(11, NEWEST[1] + 1) for name in PLATFORMS]
    left, failed, later = wanted, 0, False
    for minor, name in (progress := tqdm(targets, desc="wheels", unit="target", disable=None)):
        gone, compiled = missing(f"3.{minor}", PLATFORMS[name], left)
        if left is wanted:
            left = sorted({*gone, *compiled})  # A wheel for any platform and Python 3 is found once.
        for pin in gone:
            supported = (3, minor) <= offered()
            failed, later = failed + supported, later or not supported
            note = "" if supported else " (scripts/setup does not take this Python)"
            progress.write(f"Python 3.{minor}, {name}: no wheel of {pin}{note}", file=sys.stdout)
            sys.stdout.flush()
    if offered() < NEWEST and not later:
        print(f"all wheels are there for Python 3.{NEWEST[1]}: name it in scripts/setup")
    print(f"{len(wanted)} pins, {len(targets)} targets, {failed} wheels missing")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
