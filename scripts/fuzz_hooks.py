"""Loaded by Schemathesis: counts every request that got an answer, by status, for ``scripts.fuzz``."""

import atexit
import json
import os
from collections import Counter
from pathlib import Path
from threading import Lock
from typing import Any

import schemathesis

_statuses: Counter[int] = Counter()
_lock = Lock()


@schemathesis.hook
def after_call(_context: Any, _case: Any, response: Any) -> None:
    with _lock:
        _statuses[response.status_code] += 1


atexit.register(lambda: Path(os.environ["FUZZ_STATUSES"]).write_text(json.dumps(_statuses), encoding="utf-8"))
