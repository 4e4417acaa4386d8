"""An id of a data directory that its copies do not share."""

import json
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

NAME = "folder.json"


def folder_id(data_dir: Path) -> str:
    """The directory's id. It stays the same when the directory is moved; a copy gets a new one. For the keeper only.

    The id is in a file that also has the file's own inode number; a copy of the file has another inode number. A
    directory that was moved to another file system or restored from an archive counts as a copy.
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
    new.replace(path)  # The file keeps its inode number.
    return chosen
