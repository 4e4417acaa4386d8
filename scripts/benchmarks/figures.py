"""Percentiles, ratios of runs that took turns, and tables."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np


@dataclass
class Table:
    """Rows of named cells; ``title`` says what was measured, ``note`` how."""

    name: str
    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""

    def add(self, **cells: Any) -> None:
        self.rows.append(cells)

    def markdown(self) -> str:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        lines = [f"### {self.title}", ""]
        if self.note:
            lines += [self.note, ""]
        lines.append("| " + " | ".join(name.replace("_", " ") for name in names) + " |")
        lines.append("|" + "---|" * len(names))
        lines += ["| " + " | ".join(_cell(row.get(name, "")) for name in names) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median, the least and the greatest ratio of pairs that took turns."""

    middle: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.least:.2f} to {self.most:.2f})"


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    of_pairs = [a / b for a, b in zip(above, below, strict=True)]
    return Ratio(median(of_pairs), min(of_pairs), max(of_pairs))


def percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(values, share))


def save(path: Path, command: str, tables: Sequence[Table]) -> None:
    """Writes the tables as JSON, and as Markdown next to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"command": command, "machine": machine(), "tables": [asdict(table) for table in tables]}
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(command, tables), encoding="utf-8")


def markdown(command: str, tables: Sequence[Table]) -> str:
    facts = ", ".join(f"{name}: {value}" for name, value in machine().items())
    return f"`{command}`\n\n{facts}\n\n" + "\n".join(table.markdown() for table in tables)


def machine() -> Mapping[str, str]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "when": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": commit.stdout.strip(),
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": names[0].partition(":")[2].strip() if names else platform.machine(),
        "python": platform.python_version(),
        "load at the end": f"{os.getloadavg()[0]:.1f}",
    }


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
    return str(value)
