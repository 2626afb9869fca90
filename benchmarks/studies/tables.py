"""What the studies found, as tables: for the shell and for the page in the docs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.studies.robustness import ANGLES

Rows = list[dict[str, Any]]
SCORES = {
    "dice": "Dice",
    "dice_2": "Dice of the second labels",
    "tre_mm": "error mm",
    "tre_p90_mm": "90 % mm",
    "tre_pixels": "error pixels",
    "tre_p90_pixels": "90 % pixels",
}
"""How a pair may be scored, the first that a case has being the one that is drawn, and what the column is called."""


@dataclass(frozen=True)
class Table:
    """A table with its name.

    Args:
        title: What it is about.
        head: Names of the columns.
        lines: One tuple of cells per line.
        notes: What does not fit into a cell.
    """

    title: str
    head: tuple[str, ...]
    lines: list[tuple[str, ...]]
    notes: list[str] = field(default_factory=list)

    def show(self, console: Console) -> None:
        """Print it in a shell."""
        table = RichTable(*self.head, title=self.title, title_justify="left")
        for line in self.lines:
            table.add_row(*line)
        console.print(table)
        for note in self.notes:
            console.print(f"  {note}", markup=False)

    def write(self) -> str:
        """The same in Markdown."""
        lines = [self.head, ("---",) * len(self.head), *self.lines]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join([f"### {self.title}", table, *(f"- {note}" for note in self.notes)])


def make_tables(study: str, rows: Rows) -> list[Table]:
    """The tables of a study, one for each of its cases."""
    if study == "robustness":
        return [_tell_starts(rows)]
    tell = {"recovery": _tell_recovery, "pairs": _tell_pairs, "learning": _tell_learning}[study]
    return [tell(case, found) for case, found in group(rows).items()]


def group(rows: Rows, key: str = "case") -> dict[str, Rows]:
    """The rows of each case, in the order in which they came."""
    return {name: [row for row in rows if row[key] == name] for name in dict.fromkeys(row[key] for row in rows)}


def average(rows: Rows, key: str) -> float | None:
    """Mean of a figure over the rows that have it."""
    found = [row[key] for row in rows if key in row]
    return float(np.mean(found)) if found else None


def _tell_recovery(case: str, rows: Rows) -> Table:
    columns = {"mean_mm": 3, "p95_mm": 2, "folds_percent": 3, "seconds": 1, "memory_mb": 0}
    head = ("program", "mean mm", "95 % mm", "folds %", "seconds", "memory MB")
    return Table(case, head, [(row["method"], *_format([row], columns)) for row in rows], _list_failures(rows))


def _tell_pairs(case: str, rows: Rows) -> Table:
    scores = [key for key in SCORES if any(key in row for row in rows)]
    columns = dict.fromkeys(scores, 3) | {"folds_percent": 4, "seconds": 1, "seconds_registering": 1, "memory_mb": 0}
    names = ("folds %", "seconds", "registering", "memory MB", "flagged", "failed")
    lines = []
    for program, found in group(rows, "method").items():
        good = [row for row in found if "failed" not in row]
        counts = (sum("flagged" in row for row in good), len(found) - len(good))
        lines.append((program, *_format(good, columns), *(str(count or "") for count in counts)))
    pairs = len(group(rows, "pair"))
    title = f"{case}, {pairs} {'pair' if pairs == 1 else 'pairs'}"
    return Table(title, ("program", *(SCORES[key] for key in scores), *names), lines, _list_failures(rows))


def _tell_learning(case: str, rows: Rows) -> Table:
    """Each pair, left out by itself, in a column, and what it costs behind them."""
    key = next(key for key in SCORES if any(key in row for row in rows))
    columns = {key: 3, "folds_percent": 3, "seconds_training": 0, "steps": 0, "seconds": 3}
    names = ("mean", "folds %", "training s", "steps", "prediction s")
    pairs, lines = group(rows, "pair"), []
    for program, found in group(rows, "method").items():
        good = {row["pair"]: row for row in found if "failed" not in row}
        each = [f"{good[pair][key]:.3f}" if pair in good else "" for pair in pairs]
        lines.append((program, *each, *_format(list(good.values()), columns)))
    return Table(f"{case}: {SCORES[key]}", ("program", *pairs, *names), lines, _list_failures(rows))


def _tell_starts(rows: Rows) -> Table:
    lines = []
    for angle in ANGLES:
        here = [row for row in rows if row["degrees"] == angle]
        met = [row for row in here if row.get("met", False)]
        failed = [row for row in here if not row.get("met", False)]
        told = f"{sum(row['exit'] != 0 for row in failed)} of {len(failed)}"
        cells = (angle, len(here), len(met), told, sum(row["exit"] != 0 for row in met))
        lines.append(tuple(map(str, cells)))
    head = ("degrees", "starts", "met", "failures that said so", "successes flagged")
    return Table("Starts by angle", head, lines)


def _format(rows: Rows, columns: dict[str, int]) -> Iterable[str]:
    """Means over rows, each with so many digits; nothing where no row has the figure."""
    means = {key: average(rows, key) for key in columns}
    return ["" if means[key] is None else f"{means[key]:.{digits}f}" for key, digits in columns.items()]


def _list_failures(rows: Rows) -> list[str]:
    failed = [row for row in rows if "failed" in row]
    return [f"{', '.join(filter(None, (row['method'], row.get('pair'))))}: {row['failed']}" for row in failed]
