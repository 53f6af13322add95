"""The history of runs: one line of JSON each in `loadtest/out/history.jsonl`, and how this one compares to the last.

Figures that compare across machines are ratios to the same streams read directly from the fake upstream, or to the
generator's own CPU, in the same run. A run is compared with the last one of the same size.
"""

from __future__ import annotations

import json
from pathlib import Path

Line = dict[str, object]
Figures = dict[str, float]
FILE = Path(__file__).resolve().parent / "out" / "history.jsonl"


def read(path: Path = FILE) -> list[Line]:
    """Every line that is whole; a run that was killed may have left half of one."""
    if not path.exists():
        return []
    lines: list[Line] = []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def append(line: Line, path: Path = FILE) -> None:
    """Add a line, in one write."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line, sort_keys=True) + "\n")


def last_like(lines: list[Line], size: str) -> Line | None:
    """The newest run of this size."""
    return next((line for line in reversed(lines) if line.get("size") == size), None)


def compare(figures: Figures, last: Line | None) -> list[list[str]]:
    """The figures beside the last run's, as rows with a heading."""
    past = last.get("figures") if last else None
    known = past if isinstance(past, dict) else {}
    rows = [["figure", "now", "last", "change"]]
    for name, value in figures.items():
        before = known.get(name)
        if isinstance(before, int | float):
            change = f"{(value / before - 1) * 100:+.0f}%" if before else "-"
            rows.append([name, f"{value:.3g}", f"{before:.3g}", change])
        else:
            rows.append([name, f"{value:.3g}", "-", "-"])
    return rows
