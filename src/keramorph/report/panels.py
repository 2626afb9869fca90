"""The six pictures that a report shows of each plane."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import AbstractPathEffect, withStroke

from keramorph.report.views import View

DIFFERENCE_COLOURS = "RdBu_r"
GRID_COLOUR = "#ffd23f"
GRID_LINES = 22
OUTLINE: list[AbstractPathEffect] = [withStroke(linewidth=2, foreground="black")]
"""Keeps white letters readable on a white picture."""


def draw_fixed(axes: Axes, view: View) -> None:
    """Draw the fixed image."""
    _draw_image(axes, view, view.fixed)
    axes.set_title(_name("fixed", view))


def draw_before(axes: Axes, view: View) -> None:
    """Draw the moving image where its header places it."""
    _draw_image(axes, view, view.before)
    axes.set_title("moving, before")


def draw_moved(axes: Axes, view: View) -> None:
    """Draw the moving image, aligned."""
    _draw_image(axes, view, view.moved)
    axes.set_title("moved")


def draw_difference_before(axes: Axes, view: View) -> None:
    """Draw what separates the images before."""
    _draw_difference(axes, view, view.difference(view.before))
    axes.set_title(f"difference before: {_mean_size(view.difference(view.before))}")


def draw_difference_after(axes: Axes, view: View) -> None:
    """Draw what separates the images after."""
    _draw_difference(axes, view, view.difference(view.moved))
    axes.set_title(f"difference after: {_mean_size(view.difference(view.moved))}")


def draw_grid(axes: Axes, view: View) -> None:
    """Draw the aligned image with the straight grid of the moving image, as the deformation carries it along."""
    _draw_image(axes, view, 0.75 * view.moved)
    step = max(view.plane.height, view.plane.width) / GRID_LINES
    for read_at in (view.across, view.down):
        levels = np.arange(np.floor(read_at.min() / step), np.ceil(read_at.max() / step) + 1) * step
        if len(levels) < 20 * GRID_LINES:
            axes.contour(read_at, levels=levels, colors=GRID_COLOUR, linewidths=0.6, linestyles="solid")
    axes.set_title("deformed grid")


PANELS = (draw_fixed, draw_before, draw_moved, draw_difference_before, draw_difference_after, draw_grid)
FIRST_DIFFERENCE = PANELS.index(draw_difference_before)


def _draw_image(axes: Axes, view: View, image: np.ndarray) -> None:
    colours = image[..., :3] if image.shape[-1] in (3, 4) else image.mean(axis=-1)
    axes.imshow(colours, cmap="gray", vmin=0, vmax=1, aspect=_aspect(view))
    _finish(axes, view)


def _draw_difference(axes: Axes, view: View, difference: np.ndarray) -> None:
    axes.imshow(difference, cmap=DIFFERENCE_COLOURS, vmin=-1, vmax=1, aspect=_aspect(view))
    _finish(axes, view)


def _finish(axes: Axes, view: View) -> None:
    """Take the ticks away, and write the letters of the patient's sides at the edges of the picture."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor("black")
    axes.title.set_fontsize(9.5)
    places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02))
    alignments = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for letter, (x, y), (across, down) in zip(view.plane.edges, places, alignments, strict=False):
        text = axes.text(x, y, letter, transform=axes.transAxes, color="white", fontsize=8, ha=across, va=down)
        text.set_path_effects(OUTLINE)


def _aspect(view: View) -> float:
    """Height of one pixel over its width."""
    rows, columns = view.fixed.shape[:2]
    return (view.plane.height / rows) / (view.plane.width / columns)


def _name(title: str, view: View) -> str:
    return f"{title} ({view.plane.name})" if view.plane.name else title


def _mean_size(difference: np.ndarray) -> str:
    return f"{100 * np.abs(difference).mean():.1f} %"
