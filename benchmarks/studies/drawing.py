"""Tables and pictures of the studies, and the page in the docs that shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.page import RESULTS, replace_measured, write_machine
from benchmarks.studies.robustness import ANGLES

PAGE = RESULTS.parents[1] / "docs" / "reference" / "studies.md"
_COLUMNS = ("mean mm", "95 % mm", "folds %", "seconds", "memory MB")
_HEAD = ("degrees", "starts", "met", "failures that said so", "successes flagged")
_OURS = "#1b7f5c"
Rows = list[dict[str, Any]]


def print_tables(console: Console, result: dict[str, Any]) -> None:
    """Print every case of the recovery, and the robustness."""
    for case, rows in _group(result["recovery"]).items():
        table = Table("program", *_COLUMNS, title=case, title_justify="left")
        for row in rows:
            table.add_row(row["method"], *_format(row))
        console.print(table)
    if result["robustness"]:
        table = Table(*_HEAD, title="Any way round", title_justify="left")
        for row in _sum_up(result["robustness"]):
            table.add_row(*map(str, row))
        console.print(table)


def draw_all(result: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what was measured; returns the files."""
    drawn = []
    for name, draw in (("recovery", draw_recovery), ("robustness", draw_robustness)):
        if result[name]:
            figure = draw(result[name])
            drawn.append(folder / f"{name}.png")
            figure.savefig(drawn[-1], dpi=120, metadata={"Software": None})
            plt.close(figure)
    return drawn


def draw_recovery(rows: Rows) -> plt.Figure:
    """Mean error against seconds, a panel for each case."""
    cases = _group([row for row in rows if "failed" not in row])
    columns = min(3, len(cases))
    lines = -(-len(cases) // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(5 * columns, 4 * lines), layout="constrained", squeeze=False)
    for panel, (case, found) in zip(panels.flat, cases.items(), strict=False):
        for row in found:
            ours = row["method"].startswith("keramorph")
            panel.plot(
                row["seconds"], row["mean_mm"], "o", color=_OURS if ours else "#8a919c", markersize=8 if ours else 5
            )
            panel.annotate(
                row["method"], (row["seconds"], row["mean_mm"]), xytext=(5, 4), textcoords="offset points", fontsize=7
            )
        panel.set(xscale="log", title=case, xlabel="seconds of the deformation", ylabel="mean error in the brain, mm")
        panel.set_ylim(bottom=0)
        panel.margins(x=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in list(panels.flat)[len(cases) :]:
        panel.set_visible(False)
    return figure


def draw_robustness(rows: Rows) -> plt.Figure:
    """Shares of starts that met, that failed and were told so, and that failed unsaid."""
    figure, panel = plt.subplots(figsize=(7, 3.5), layout="constrained")
    bottom = np.zeros(len(ANGLES))
    kinds = (
        ("met", _OURS, lambda row: row.get("met", False)),
        ("failed, and said so", "#d9b44a", lambda row: not row.get("met", False) and row["exit"] != 0),
        ("failed unsaid", "#c0504d", lambda row: not row.get("met", False) and row["exit"] == 0),
    )
    for label, colour, test in kinds:
        share = np.array([np.mean([test(row) for row in rows if row["degrees"] == angle]) for angle in ANGLES])
        panel.bar([str(angle) for angle in ANGLES], share, bottom=bottom, color=colour, label=label)
        bottom += share
    panel.set(xlabel="degrees turned, and shifted by up to 100 mm, axes flipped and permuted", ylabel="share of starts")
    panel.legend(loc="lower left")
    panel.spines[["top", "right"]].set_visible(False)
    return figure


def record(result: dict[str, Any]) -> None:
    """Renew the JSON, the pictures and the measured part of the page."""
    (RESULTS / "studies.json").write_text(json.dumps(result, indent=1) + "\n")
    drawn = draw_all(result, RESULTS)
    parts = [write_machine(result["machine"])]
    parts += [f"![{path.stem}](../../benchmarks/results/{path.name})" for path in drawn]
    for case, rows in _group(result["recovery"]).items():
        parts += [f"### {case}", _write_table(("program", *_COLUMNS), [(row["method"], *_format(row)) for row in rows])]
    if result["robustness"]:
        parts += ["### Any way round", _write_table(_HEAD, _sum_up(result["robustness"]))]
    replace_measured(PAGE, "\n\n".join(parts) + "\n")


def _group(rows: Rows) -> dict[str, Rows]:
    return {case: [row for row in rows if row["case"] == case] for case in dict.fromkeys(row["case"] for row in rows)}


def _format(row: dict[str, Any]) -> tuple[str, ...]:
    if "failed" in row:
        return (f"failed: {row['failed']}", *[""] * (len(_COLUMNS) - 1))
    numbers = (row["mean_mm"], row["p95_mm"], row["folds_percent"], row["seconds"])
    memory = f"{row['memory_mb']:.0f}" if "memory_mb" in row else ""
    return (*(f"{number:.{digits}f}" for number, digits in zip(numbers, (3, 2, 3, 1), strict=True)), memory)


def _sum_up(rows: Rows) -> list[tuple[Any, ...]]:
    """Angle, starts, how many met, failures that were told, and successes that were not trusted."""
    summed = []
    for angle in ANGLES:
        here = [row for row in rows if row["degrees"] == angle]
        met = [row for row in here if row.get("met", False)]
        failed = [row for row in here if not row.get("met", False)]
        told = f"{sum(row['exit'] != 0 for row in failed)} of {len(failed)}"
        summed.append((angle, len(here), len(met), told, sum(row["exit"] != 0 for row in met)))
    return summed


def _write_table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
