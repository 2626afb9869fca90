"""Take the last folds out of a displacement, and out of its inverse."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from keramorph import backend
from keramorph._typing import Array
from keramorph.ops.jacobian import least_determinant
from keramorph.solver.mapping import to_numpy
from keramorph.solver.pyramid import finest_spacing, smoothing_width
from keramorph.space import Grid

_LEAST = 0.01
"""Smallest change of volume that is let be."""

_WIDTHS = (1, 2, 4, 8, 16, 32)
"""Widths of the Gaussians, as multiples of the smallest spacing: a wider one only where a narrower one did not help."""

_ROUNDS = 16
"""How often each of them smooths."""

_CELL = 4
"""Edge in voxels of the cells by which folded voxels are grouped."""

Box = tuple[slice, ...]
"""Slices of the spatial axes."""


def unfold(displacement: Array, grid: Grid) -> Array:
    """Return the displacement smoothed, as little as it takes, until neither `x + u(x)` nor `x - u(x)` folds anywhere.

    Updates that are small and smooth make no folds, but linear interpolation between voxels can. The second map is the
    inverse to first order: where it folds, the first one stretches so much that its inverse can hardly be computed.
    Each voxel that is folded still is smoothed again and again by a narrow Gaussian, with those beside it, and nothing
    else is: in a brain, one smoothing that is wide enough to do all at once costs the structures around it.

    Args:
        displacement: `(1, *spatial, ndim)` in voxels of `grid`.
        grid: Grid of the displacement.

    Returns:
        Displacement of the same shape; where the widest Gaussian did not help either, as far as it came.
    """
    xp = backend.of(displacement).xp
    determinant = least_determinant(displacement)
    if float(xp.min(determinant)) > _LEAST:
        return displacement
    field, folded = to_numpy(displacement)[0].copy(), to_numpy(determinant)[0] <= _LEAST
    for factor in np.repeat(_WIDTHS, _ROUNDS):
        if not folded.any():
            break
        width = smoothing_width(float(factor) * finest_spacing(grid), grid)
        for box in _find_groups(folded):
            _smooth_folds(field, folded, box, width)
    return xp.asarray(field[None], dtype=xp.dtype(displacement), like=displacement)


def _find_groups(folded: np.ndarray) -> Iterator[Box]:
    """Boxes around groups of folded voxels."""
    from scipy import ndimage  # takes 0.2 s, which a registration without folds need not wait for

    cells = np.zeros([-(-n // _CELL) for n in folded.shape], dtype=bool)
    cells[tuple(np.argwhere(folded).T // _CELL)] = True
    groups, _ = ndimage.label(cells, np.ones((3,) * folded.ndim))
    for group in ndimage.find_objects(groups):
        yield tuple(slice(at.start * _CELL, at.stop * _CELL) for at in group)


def _smooth_folds(field: np.ndarray, folded: np.ndarray, box: Box, width: tuple[float, ...]) -> None:
    """Smooth the folds in a box once, and see what is folded then, both in place."""
    engine = backend.use("numpy")
    reach = [int(4 * sigma + 0.5) for sigma in width]
    # As far as a Gaussian of the folds goes the displacement changes, and by one voxel more its differences; to smooth
    # it there takes as much again.
    changed, around = _grow(box, [r + 1 for r in reach]), _grow(box, [2 * r + 2 for r in reach])
    part, marks = field[around], folded[around]
    chosen = np.zeros(marks.shape, part.dtype)
    chosen[_shift(box, around)] = marks[_shift(box, around)]
    # One folded voxel by itself is moved half the way: the Gaussian is at its top there.
    scale = 0.5 * math.prod(max(1.0, math.sqrt(2 * math.pi) * sigma) for sigma in width)
    share = np.minimum(scale * engine.gaussian(chosen[None, ..., None], sigma=width)[0], 1)
    part += share * (engine.gaussian(part[None], sigma=width)[0] - part)
    marks[_shift(changed, around)] = (least_determinant(part[None])[0] <= _LEAST)[_shift(changed, around)]


def _grow(box: Box, room: list[int]) -> Box:
    return tuple(slice(max(at.start - r, 0), at.stop + r) for at, r in zip(box, room, strict=True))


def _shift(box: Box, outer: Box) -> Box:
    """The slices of a box, counted from the start of an outer one."""
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, outer, strict=True))
