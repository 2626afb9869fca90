"""Pictures of what the studies found."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.studies.methods import METHODS
from benchmarks.studies.networks import NETWORKS
from benchmarks.studies.robustness import ANGLES
from benchmarks.studies.tables import SCORES, Rows, average, group

_OURS = "#1b7f5c"
_OTHERS = ("#c0504d", "#e0a030", "#3b6fb6", "#8e5ea2", "#6d7480", "#a0703c", "#d67fb0", "#4aa3a2")
_MARKS = "s^vDP<>p"
Points = dict[str, tuple[float, float]]
"""Seconds and score of each program."""


def draw(study: str, rows: Rows) -> plt.Figure | None:
    """The picture of a study; None where nothing in it can be drawn."""
    good = [row for row in rows if "failed" not in row]
    if study == "robustness":
        return _draw_robustness(rows) if rows else None
    panels = []
    for case, found in group(good).items():
        keys = ("mean_mm",) if study == "recovery" else SCORES
        key = next((key for key in keys if any(key in row for row in found)), None)
        if key is not None:
            label = "mean error in the brain, mm" if study == "recovery" else SCORES[key]
            panels.append((case, label, key, _find_points(found, key)))
    return _draw_panels(panels) if panels else None


def _find_points(rows: Rows, key: str) -> Points:
    means = {name: (average(found, "seconds"), average(found, key)) for name, found in group(rows, "method").items()}
    return {name: (x, y) for name, (x, y) in means.items() if x is not None and y is not None}


def _draw_panels(panels: list[tuple[str, str, str, Points]]) -> plt.Figure:
    """Score against seconds, better to the left and up; one legend instead of labels that would cover each other."""
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    size = (max(6.0, 4 * columns), 3.2 * lines + 0.9)
    figure, axes = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
    programs = list(dict.fromkeys(name for *_, points in panels for name in points))
    handles = {}
    for axis, (case, label, key, points) in zip(axes.flat, panels, strict=False):
        for name, (seconds, score) in points.items():
            (handles[name],) = axis.plot(seconds, score, linestyle="none", label=name, **_choose_style(name))
        axis.set(xscale="log", title=case, xlabel="seconds", ylabel=label)
        axis.margins(x=0.15, y=0.15)
        # A decade at least, with two labels in each: however near the programs are, no label lies on another.
        low, high = axis.get_xlim()
        middle = np.sqrt(low * high)
        axis.set_xlim(min(low, middle / 4), max(high, middle * 4))
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        if not key.startswith("dice"):
            axis.set_ylim(bottom=0)
            axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    figure.legend(
        [handles[name] for name in programs], programs, loc="outside lower center", ncols=columns + 1, frameon=False
    )
    return figure


def _choose_style(program: str) -> dict[str, object]:
    """Ours in one colour, full and hollow; the others each in a colour and a mark, the same in all pictures."""
    if program.startswith("keramorph"):
        face = _OURS if program == "keramorph" else "white"
        return {"color": _OURS, "marker": "o", "markersize": 9, "markerfacecolor": face}
    others = [name for name in (*METHODS["recovery"], *NETWORKS) if not name.startswith("keramorph")]
    place = others.index(program)
    return {"color": _OTHERS[place], "marker": _MARKS[place], "markersize": 6}


def _draw_robustness(rows: Rows) -> plt.Figure:
    """Shares of starts that met, that failed and were told so, and that failed unsaid."""
    figure, panel = plt.subplots(figsize=(7, 3.5), layout="constrained")
    bottom = np.zeros(len(ANGLES))
    kinds = (
        ("met", _OURS, lambda row: row.get("met", False)),
        ("failed, and said so", "#d9b44a", lambda row: not row.get("met", False) and row["exit"] != 0),
        ("failed unsaid", "#c0504d", lambda row: not row.get("met", False) and row["exit"] == 0),
    )
    for label, colour, test in kinds:
        here = [[test(row) for row in rows if row["degrees"] == angle] for angle in ANGLES]
        share = np.array([np.mean(tests) if tests else 0.0 for tests in here])
        panel.bar([str(angle) for angle in ANGLES], share, bottom=bottom, color=colour, label=label)
        bottom += share
    panel.set(xlabel="degrees turned, and shifted by up to 100 mm, axes flipped and permuted", ylabel="share of starts")
    panel.legend(loc="lower left")
    panel.spines[["top", "right"]].set_visible(False)
    return figure
