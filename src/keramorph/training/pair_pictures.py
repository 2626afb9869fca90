"""What the pictures of pairs share, and the sheet of synthetic ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keramorph import ops

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES = 16
"""Lines of the deformed grid along the longer side of a picture."""

_TITLES = ("fixed", "moving", "labels of fixed", "labels of moving", "moving, with its grid carried to fixed")


def write_sheet(pairs: Sequence[dict[str, np.ndarray]], path: str | Path) -> None:
    """Draw synthetic pairs, one in a row: both images, their labels, and the moving image moved by the true map.

    Of volumes the middle slice along the first axis is shown.

    Args:
        pairs: Dictionaries of `fixed`, `moving`, `fixed_labels`, `moving_labels`, all `(*spatial, 1)`, and of
            `displacement` `(*spatial, ndim)` in voxels.
        path: File to write; its ending (`.png`, `.pdf`, `.svg`) says what it holds.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * len(_TITLES), 2.3 * len(pairs)), layout="constrained")
    for row, places in enumerate(figure.subplots(len(pairs), len(_TITLES), squeeze=False)):
        _draw_row(places, pairs[row])
        if row == 0:
            for axes, title in zip(places, _TITLES, strict=True):
                axes.set_title(title, fontsize=8)
    figure.savefig(path)


def _draw_row(places: Sequence[Axes], pair: dict[str, np.ndarray]) -> None:
    moved = ops.warp(pair["moving"][None], pair["displacement"][None])[0]
    most = max(1, int(max(pair["fixed_labels"].max(), pair["moving_labels"].max())))
    for axes, name in zip(places, ("fixed", "moving", "fixed_labels", "moving_labels"), strict=False):
        colours, limit = ("nipy_spectral", most) if name.endswith("labels") else ("gray", 1)
        axes.imshow(cut_slice(pair[name])[..., 0], cmap=colours, vmin=0, vmax=limit, interpolation="nearest")
    places[4].imshow(cut_slice(moved)[..., 0], cmap="gray", vmin=0, vmax=1, alpha=0.6)
    draw_grid(places[4], cut_slice(pair["displacement"]))
    for axes in places:
        hide_ticks(axes)


def hide_ticks(axes: Axes) -> None:
    """Take the ticks of a picture away."""
    axes.set_xticks([])
    axes.set_yticks([])


def cut_slice(array: np.ndarray) -> np.ndarray:
    """Picture `(rows, columns, values)` of `(*spatial, values)`: the middle slice of a volume, a line as one row."""
    if array.ndim == 2:
        return array[None]
    return array[len(array) // 2] if array.ndim == 4 else array


def draw_grid(axes: Axes, displacement: np.ndarray) -> None:
    """Lines of the moving image's grid, where the deformation carries them: those along which x + u(x) is constant."""
    sizes = displacement.shape[:2]
    if min(sizes) < 2:
        return
    step = max(sizes) / _LINES
    for axis in (0, 1):
        read_at = displacement[..., axis - 2] + np.arange(sizes[axis]).reshape((-1, 1) if axis == 0 else (1, -1))
        levels = np.arange(np.ceil(read_at.min() / step), np.floor(read_at.max() / step) + 1) * step
        if 0 < len(levels) < 20 * _LINES:
            axes.contour(read_at, levels=levels, colors="#ffd23f", linewidths=0.6)
