"""Take the last folds out of a displacement."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np

from keramorph import backend
from keramorph._typing import Array
from keramorph.ops.jacobian import shifted_determinant, slopes_of
from keramorph.preparation import finest_spacing
from keramorph.solver.mapping import to_numpy
from keramorph.solver.pyramid import smoothing_width
from keramorph.space import Grid

_LEAST = 0.05
"""Smallest change of volume that is let be; its inverse is the largest."""

_WIDTHS = (1, 2, 4, 8, 16, 32)
"""Widths of the Gaussians, as multiples of the smallest spacing: a wider one only where a narrower one did not help."""

_ROUNDS = 16
"""How often each of them smooths."""

_CELL = 4
"""Edge in voxels of the cells by which folded voxels are grouped."""

_LEAST_BESIDE, _STEEP, _SURE = 0.01, 0.5, 0.95
"""Smallest change of volume between a voxel and its neighbours; that at a voxel below which it is looked for there; and
the sum of slopes up to which there cannot be any less."""

Box = tuple[slice, ...]
"""Slices of the spatial axes."""

Sides = tuple[np.ndarray, np.ndarray]
"""Differences of a displacement to the neighbours on either side."""

Seen = tuple[float, np.ndarray]
"""A factor s and a matrix K: a change of volume is `s * det(K + Du)`, Du being the slopes in voxels."""


def unfold(displacement: Array, grid: Grid, matrix: np.ndarray) -> Array:
    """Return the displacement smoothed, as little as it takes, until `x + u(x)` folds nowhere, nor nearly does.

    Updates that are small and smooth make no folds, but linear interpolation between voxels can: the corners of each
    cell between them are asked, for whoever reads the displacement on a finer grid. Where a volume shrinks
    or grows out of all measure, the inverse can hardly be computed. Each voxel where one of these happens still is
    smoothed again and again by a narrow Gaussian, with those beside it, and nothing else is: in a brain, one smoothing
    that is wide enough to do all at once costs the structures around it.

    ITK's filter for the determinant takes the axes of a grid for those of space. On a grid whose axes point elsewhere
    it finds folds in a map that has none, and many programs count by it: what it would find is smoothed likewise.

    Args:
        displacement: `(1, *spatial, ndim)` in voxels of `grid`.
        grid: Grid of the displacement.
        matrix: Homogeneous matrix in millimetres that is applied after the displacement.

    Returns:
        Displacement of the same shape; where the widest Gaussian did not help either, as far as it came.
    """
    seen = _see_as_itk(grid, matrix)
    found = to_numpy(displacement)
    folded = _find_folds(found, seen)[0]
    if not folded.any():
        return displacement
    field = found[0].copy()
    for factor in np.repeat(_WIDTHS, _ROUNDS):
        if not folded.any():
            break
        width = smoothing_width(float(factor) * finest_spacing(grid), grid)
        for box in _find_groups(folded):
            _smooth_folds(field, folded, box, width, seen)
    xp = backend.of(displacement).xp
    return xp.asarray(field[None], dtype=xp.dtype(displacement), like=displacement)


def _see_as_itk(grid: Grid, matrix: np.ndarray) -> Seen | None:
    """What ITK's determinant is to that of the slopes.

    ITK measures `det(I + G)`, where G holds the derivatives of the displacement in millimetres along the axes of its
    array, which are ours in reverse. None where that is the determinant of the map, and where it would call the matrix
    alone a fold.
    """
    ndim = grid.ndim
    linear, axes = matrix[:ndim, :ndim], grid.matrix
    straight = np.diag(grid.spacing)[::-1]
    shift = np.eye(ndim) + np.linalg.solve(linear @ axes, straight - axes)
    factor = float(np.linalg.det(linear @ axes) / np.linalg.det(straight))
    if np.allclose(axes, straight, atol=1e-6 * grid.spacing.max()) or factor * np.linalg.det(shift) < _LEAST:
        return None
    return factor, shift


def _find_folds(displacement: np.ndarray, seen: Seen | None) -> np.ndarray:
    """Where a displacement folds or nearly does, at a voxel or beside it, `(batch, *spatial)` of booleans."""
    looks = [(1.0, np.eye(displacement.shape[-1])), *([] if seen is None else [seen])]

    def find(displacement: np.ndarray) -> np.ndarray:
        slopes = slopes_of(displacement)
        changes = [factor * shifted_determinant(slopes, matrix) for factor, matrix in looks]
        folded = np.any([change < _LEAST for change in changes], axis=0) | (changes[0] > 1 / _LEAST)
        sides = _list_sides(displacement)
        steep = np.any([change < _STEEP for change in changes], axis=0) | _may_fold(sides)
        return folded | _fold_beside(sides, steep & ~folded, looks)

    return backend.use("numpy").map_blocks(find, displacement, halo=1)


def _list_sides(displacement: np.ndarray) -> list[Sides]:
    """What it takes, along each axis, to the next voxel and from the one before; nothing beyond the edges."""
    sides = []
    for axis in range(1, displacement.ndim - 1):
        steps, none = np.diff(displacement, axis=axis), np.zeros_like(displacement.take([0], axis=axis))
        sides.append((np.concatenate([steps, none], axis=axis), np.concatenate([none, steps], axis=axis)))
    return sides


def _may_fold(sides: list[Sides]) -> np.ndarray:
    """Where the slopes to the neighbours are so large that the linear map between them might not be invertible."""
    totals = reduce(np.add, [np.maximum(*map(np.abs, pair)) for pair in sides])
    return reduce(np.maximum, np.moveaxis(totals, -1, 0)) > _SURE


def _fold_beside(sides: list[Sides], where: np.ndarray, looks: Sequence[Seen]) -> np.ndarray:
    """Where, of what is asked for, a voxel is the corner of a cell in which the map between voxels folds."""
    chosen = [[np.ascontiguousarray(side[where].T) for side in pair] for pair in sides]
    least = np.full(np.count_nonzero(where), np.inf, sides[0][0].dtype)
    for corner in itertools.product(*chosen):
        for factor, matrix in looks:
            least = np.minimum(least, factor * shifted_determinant([*map(list, zip(*corner, strict=True))], matrix))
    folded = np.zeros_like(where)
    folded[where] = least < _LEAST_BESIDE
    return folded


def _find_groups(folded: np.ndarray) -> Iterator[Box]:
    """Boxes around groups of folded voxels."""
    from scipy import ndimage  # takes 0.2 s, which a registration without folds need not wait for

    cells = np.zeros([-(-n // _CELL) for n in folded.shape], dtype=bool)
    cells[tuple(np.argwhere(folded).T // _CELL)] = True
    groups, _ = ndimage.label(cells, np.ones((3,) * folded.ndim))
    for group in ndimage.find_objects(groups):
        yield tuple(slice(at.start * _CELL, at.stop * _CELL) for at in group)


def _smooth_folds(field: np.ndarray, folded: np.ndarray, box: Box, width: tuple[float, ...], seen: Seen | None) -> None:
    """Smooth the folds in a box once, and see what is folded then, both in place."""
    engine = backend.use("numpy")
    reach = [int(4 * sigma + 0.5) for sigma in width]
    # As far as a Gaussian of the folds goes the displacement changes, and by one voxel more its differences; to smooth
    # it there takes as much again.
    changed, seen_from, around = (_grow(box, [extra + k * r for r in reach]) for k, extra in ((1, 1), (1, 2), (2, 2)))
    part, marks = field[around], folded[around]
    chosen = np.zeros(marks.shape, part.dtype)
    chosen[_shift(box, around)] = marks[_shift(box, around)]
    # One folded voxel by itself is moved half the way: the Gaussian is at its top there.
    scale = 0.5 * math.prod(max(1.0, math.sqrt(2 * math.pi) * sigma) for sigma in width)
    share = np.minimum(scale * engine.gaussian(chosen[None, ..., None], sigma=width)[0], 1)
    part += share * (engine.gaussian(part[None], sigma=width)[0] - part)
    folded[changed] = _find_folds(field[seen_from][None], seen)[0][_shift(changed, seen_from)]


def _grow(box: Box, room: list[int]) -> Box:
    return tuple(slice(max(at.start - r, 0), at.stop + r) for at, r in zip(box, room, strict=True))


def _shift(box: Box, outer: Box) -> Box:
    """The slices of a box, counted from the start of an outer one."""
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, outer, strict=True))
