"""The picture of the demo's network: the unseen pair, what the network made of it, and how far off it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from keramorph.cli.demonstration.scene import Answer

FOUND, TRUE = "#ffd23f", "#3fd0ff"
STEP = 10
"""Pixels between the lines of the drawn grid."""


def write_answer(answer: Answer, path: Path) -> None:
    """Write the picture of a network's answer to a pair whose truth is known.

    Args:
        answer: What `train_network` returns.
        path: File to write, `.png`.

    Example:
        >>> write_answer(answer, Path("network.png"))  # doctest: +SKIP
    """
    scene = answer.scene
    before, after = scene.map_errors(np.zeros(2)), scene.map_errors(answer.displacement)
    figure = Figure(figsize=(11.2, 8.2), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("A pair that the network has not seen", fontsize=14, fontweight="bold")
    (fixed, moving, moved), (far, near, grid) = figure.subplots(2, 3)
    _draw_picture(fixed, scene.fixed, "fixed")
    _draw_picture(moving, scene.moving, "moving")
    _draw_picture(moved, answer.moved, "moved by the network")
    top = float(np.percentile(before[scene.head], 99))
    _draw_errors(far, before, scene.head, "error before", top)
    shown = _draw_errors(near, after, scene.head, "error after", top)
    figure.colorbar(shown, ax=[far, near], orientation="horizontal", shrink=0.5, label="endpoint error, pixels")
    _draw_picture(grid, 0.75 * answer.moved, "deformation")
    _draw_grid(grid, scene.displacement, TRUE)
    _draw_grid(grid, answer.displacement, FOUND)
    lines = [Line2D([], [], color=colour) for colour in (FOUND, TRUE)]
    grid.legend(lines, ["predicted", "true"], loc="lower right", fontsize=8)
    figure.savefig(path)


def _draw_picture(axes: Axes, picture: np.ndarray, title: str) -> None:
    axes.imshow(picture, cmap="gray", vmin=0, vmax=np.percentile(picture, 99.5))
    _finish(axes, title)


def _draw_errors(axes: Axes, errors: np.ndarray, head: np.ndarray, title: str, top: float) -> AxesImage:
    shown = axes.imshow(np.where(head, errors, np.nan), cmap="magma", vmin=0, vmax=top)
    _finish(axes, f"{title}: {errors[head].mean():.2f} px inside the head")
    return shown


def _draw_grid(axes: Axes, displacement: np.ndarray, colour: str) -> None:
    pixels = np.moveaxis(np.indices(displacement.shape[:2]), 0, -1)
    for axis in range(2):
        reached = (pixels + displacement)[..., axis]
        axes.contour(reached, levels=np.arange(0, reached.max(), STEP), colors=colour, linewidths=0.7)


def _finish(axes: Axes, title: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=10.5)
