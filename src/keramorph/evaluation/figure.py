"""One picture of an evaluation: Dice of each label, and the landmarks' distances, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from keramorph.evaluation.pairs import PairScores

_BEFORE, _AFTER = "#9aa5b1", "#1f77b4"
_IN_A_ROW = 20
"""Labels that are drawn beside each other."""
_Panel = tuple[str, list[str], list[list[float]], list[list[float]]]
"""Title, names along the axis, and the values over the pairs at each of them, before and after."""


def write_figure(scores: Sequence[PairScores], path: str | Path) -> None:
    """Draw boxes over the pairs, before and after: a panel for the Dice of the labels, for landmarks, for correlation.

    Args:
        scores: One or more of them.
        path: File to write; its ending (`.png`, `.pdf`, `.svg`) says what it holds.

    Example:
        >>> write_figure(scores, "scores.png")  # doctest: +SKIP
    """
    labels = sorted({label for one in scores for label in one.dice})
    rows: list[list[_Panel]] = [[]]
    if labels:
        names = ["mean", *map(str, labels)]
        before, after = (
            [_pick([getattr(one, mean) for one in scores])]
            + [_pick([getattr(one, each).get(label) for one in scores]) for label in labels]
            for mean, each in (("mean_dice_before", "dice_before"), ("mean_dice", "dice"))
        )
        parts = [slice(first, first + _IN_A_ROW) for first in range(0, len(names), _IN_A_ROW)]
        rows = [[("Dice", names[part], before[part], after[part])] for part in parts]
    if any(one.tre is not None for one in scores):
        before, after = ([_pick([getattr(one, name) for one in scores])] for name in ("tre_before", "tre"))
        rows[-1].append(("distance of landmarks (mm)", [""], before, after))
    before, after = ([_pick([getattr(one, name) for one in scores])] for name in ("correlation_before", "correlation"))
    rows[-1].append(("correlation", [""], before, after))
    widths = [[max(2.2, 0.6 * len(names)) for _, names, _, _ in row] for row in rows]
    figure = Figure(figsize=(max(map(sum, widths)) + 1, 3.4 * len(rows)), layout="constrained")
    bands = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for band, row, ratios in zip(bands, rows, widths, strict=True):
        places = band.subplots(1, len(row), squeeze=False, gridspec_kw={"width_ratios": ratios})[0]
        for axes, panel in zip(places, row, strict=True):
            _draw_boxes(axes, *panel)
    figure.savefig(path)


def _draw_boxes(axes: Any, title: str, names: list[str], before: list[list[float]], after: list[list[float]]) -> None:
    """Two boxes at each name, and a dot for each pair."""
    places = np.arange(len(names), dtype=float)
    for shift, values, colour, word in ((-0.2, before, _BEFORE, "before"), (0.2, after, _AFTER, "after")):
        boxes = axes.boxplot(
            values, positions=places + shift, widths=0.34, showfliers=False, patch_artist=True, manage_ticks=False
        )
        for box in boxes["boxes"]:
            box.set(facecolor=colour, alpha=0.6)
        for line in boxes["medians"]:
            line.set_color("black")
        for place, dots in zip(places + shift, values, strict=True):
            axes.plot([place] * len(dots), dots, ".", color=colour, markersize=4)
        axes.plot([], [], "s", color=colour, label=word)
    axes.set_xticks(places, names, fontsize=7)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7)


def _pick(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and not np.isnan(value)]
