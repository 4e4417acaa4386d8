"""Checks out another commit of this repository into a folder, ready to be started."""

import subprocess
import sys
import tarfile
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".bench"
"""Virtual environments of commits with other requirements, by the hash of the requirements. Safe to delete."""
CODE = ("app", "migrations", "requirements", "scripts")


@dataclass(frozen=True, slots=True)
class Version:
    """``commit`` is short, with a + where the work tree differs from it. ``python`` runs what is in ``tree``."""

    commit: str
    tree: Path
    python: str


def this_version() -> Version:
    """The work tree with its uncommitted changes."""
    changed = _git("status", "--porcelain", "--", *CODE)
    return Version(_git("rev-parse", "--short", "HEAD") + ("+" if changed else ""), ROOT, sys.executable)


def checked_out(name: str, folder: Path) -> Version:
    """The commit of that name, its files in ``folder``. Raises SystemExit if there is none."""
    try:
        commit = _git("rev-parse", "--short", "--verify", "--quiet", f"{name}^{{commit}}")
    except subprocess.CalledProcessError:
        raise SystemExit(f"There is no commit {name!r} here.") from None
    archive = subprocess.check_output(["git", "archive", commit], cwd=ROOT)
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return Version(commit, folder, _python_of(folder))


def _python_of(tree: Path) -> str:
    """This Python, if ``tree`` needs the same packages; else that of a virtual environment, which is made once."""
    wanted = (tree / "requirements" / "server.txt").read_bytes()
    if wanted == (ROOT / "requirements" / "server.txt").read_bytes():
        return sys.executable
    environment = CACHE / sha256(wanted).hexdigest()[:16]
    python = environment / "bin" / "python"
    done = environment / "complete"
    if not done.exists():
        print(f"installing the other commit's requirements into {environment}, once", file=sys.stderr)
        subprocess.check_call([sys.executable, "-m", "venv", "--clear", environment])
        install = [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        subprocess.check_call([*install, "-r", tree / "requirements" / "server.txt"])
        done.touch()
    return str(python)


def _git(*arguments: str) -> str:
    return subprocess.check_output(["git", *arguments], cwd=ROOT, text=True).strip()
