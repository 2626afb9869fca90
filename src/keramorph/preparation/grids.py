"""Grids whose axes are the physical ones, as networks see images: of a given size, or over all that an image shows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from keramorph.space import Grid, Image

_ROUNDING = 1e-3
"""Share of a voxel that a grid need not cover: what digits of a header come to."""

_MARGIN = 1 / 16
"""Width of the empty margin that is left around what an image shows, as a share of that."""


def finest_spacing(grid: Grid) -> float:
    """Smallest spacing of a grid in millimetres, axes of one voxel left aside."""
    return min((h for n, h in zip(grid.shape, grid.spacing, strict=True) if n > 1), default=float(grid.spacing.min()))


def lay_in_middle(grid: Grid, shape: Sequence[int], spacing: Sequence[float] | float) -> Grid:
    """Return the straight grid of a shape and a spacing whose middle lies on the middle of another grid.

    Args:
        grid: The other one.
        shape: Voxels along each array axis; the last array axis runs along x.
        spacing: Millimetres between them along each array axis, or one for all.
    """
    corner = Grid.from_spacing(shape, spacing)
    return Grid.from_spacing(shape, spacing, origin=grid.center - corner.center)


def frame_content(image: Image) -> Grid:
    """Return the part of an image's grid outside of which all is background, with a margin.

    Background is the lowest value. Where that is found nowhere along the faces of the grid, it is the whole grid.
    """
    shown = (image.array > np.nanmin(image.array)).any(axis=-1)
    first, count = [], []
    for axis, size in enumerate(shown.shape):
        places = np.flatnonzero(shown.any(axis=tuple(other for other in range(shown.ndim) if other != axis)))
        begin, end = (places[0], places[-1] + 1) if places.size else (0, size)
        margin = math.ceil(_MARGIN * (end - begin))
        begin, end = max(begin - margin, 0), min(end + margin, size)
        first.append(begin)
        count.append(end - begin)
    affine = image.grid.affine.copy()
    affine[:-1, -1] = image.grid.to_physical(first)
    return Grid(tuple(count), affine, image.grid.fastest)


def cover(grid: Grid, spacing: Sequence[float] | float) -> Grid:
    """Return the smallest straight grid of a spacing that covers the field of view of another, on the same middle.

    Args:
        grid: The other one.
        spacing: Millimetres between voxels along each array axis, the last of which runs along x; or one for all.
    """
    # The box around a parallelepiped, (x, y, z); array axes run backwards.
    extent = np.abs(grid.matrix) @ np.asarray(grid.shape, dtype=np.float64)
    counts = np.ceil(extent[::-1] / np.asarray(spacing) - _ROUNDING)
    return lay_in_middle(grid, [max(1, int(n)) for n in counts], spacing)
