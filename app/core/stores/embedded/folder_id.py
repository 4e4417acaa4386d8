"""Tells a data directory from its copies."""

import json
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

NAME = "folder.json"


def folder_id(data_dir: Path) -> str:
    """The directory's own id: another one in each copy, the same one after it was moved. For its keeper alone.

    A file that holds its own inode number: a copy of the file has another. On another file system, or restored from an
    archive, the folder counts as a copy.
    """
    path = data_dir / NAME
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(path.read_text())
        if known["inode"] == path.stat().st_ino:
            return str(known["id"])
    chosen = uuid4().hex
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with new.open("w") as file:
        json.dump({"id": chosen, "inode": os.fstat(file.fileno()).st_ino}, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)  # The inode is the file's, whatever its name.
    return chosen
