"""Deformation by search: all shifts within reach are tried at once, and neighbours agree on the best.

Images of different modality look alike in their self-similarities alone, which change too abruptly for a step along a
derivative to lead anywhere. On a grid of control points, each of which stands for a few voxels, the difference of the
descriptors is computed for every shift within reach; a smooth field is then found by turns: each point takes the shift
that costs it least and lies not far from the field, and the field is the mean of those shifts around each point. As the
turns go on, the tie between the two becomes tighter. Both images are searched in the other, and what the two fields do
not say of one another is taken out. Finer grids with a shorter reach follow, from where the coarser one led.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from keramorph import backend, ops
from keramorph._typing import Array
from keramorph.ops.self_similarity import shift
from keramorph.ops.windows import average_box
from keramorph.solver.mapping import locate, voxel_matrix, weigh
from keramorph.solver.pyramid import Layer, Level, coarsen
from keramorph.solver.similarity import SelfSimilarity, take_channel
from keramorph.space import Grid

_PASSES = ((3, 4), (2, 2), (1, 1))
"""Spacing of the control points, in spacings of the level, and how many of theirs a shift may be long."""

_COUPLING = (0.0001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Cost of a control spacing, squared, between a point's own shift and the field, turn by turn; the first field is 0, so
that points which see nothing stay where they are."""

_PATCH = 3
_SMOOTHING = 5
"""Edges, in control points, of the boxes over which costs and shifts are averaged."""

_ROUNDS = 15
"""Steps towards two fields that are each other's inverses."""

_BLUR = 12**-0.5
"""That of a box as wide as the distance of the control points: no more than needed, for the descriptors are sharp."""

_KNOWN = 0.3
"""Share of a patch that must lie inside both images for its cost to count."""


class _Described(NamedTuple):
    """Descriptors `(1, *grid.shape, pairs)` of an image, and the weight of each voxel, `(1, *grid.shape, 1)`."""

    values: Array
    mask: Array
    grid: Grid


class _Shifts(NamedTuple):
    """The shifts that are tried: whole control points `(shifts, ndim)`, and the same in control spacings."""

    steps: np.ndarray
    lengths: np.ndarray


def deform_discretely(
    level: Level, matrix: np.ndarray, displacement: Array, *, notify: Callable[[int, int, float], None]
) -> tuple[Array, list[float]]:
    """Return a displacement that aligns the self-similarities of the images of a level, near a first one.

    Args:
        level: Both images at one spacing.
        matrix: Homogeneous matrix in millimetres, applied after the displacement.
        displacement: `(1, *spatial, ndim)` in voxels of the level's fixed grid, to start from.
        notify: Called with the number of passes done, that of all of them, and the loss.

    Returns:
        `(1, *spatial, ndim)` in voxels of the level's fixed grid, smooth but not free of folds; and the mean squared
        difference of the descriptors before each pass.

    References:
        Heinrich et al., Non-parametric discrete registration with convex optimisation, 2014,
        doi:10.1007/978-3-319-08554-8_6; Siebert et al., Fast 3D registration with accurate optimisation and little
        learning for Learn2Reg 2021, 2022, doi:10.1007/978-3-030-97281-3_25.
    """
    engine, measure = backend.of(level.fixed.values), SelfSimilarity()
    grid, mask = level.fixed.grid, level.fixed.mask
    fixed = _describe(level.fixed.values, level.fixed.values * 0 + 1 if mask is None else mask, grid)
    losses: list[float] = []
    for done, (scale, reach) in enumerate(_PASSES):
        moved = _describe_moved(level, matrix, displacement)
        pairs = zip(fixed, moved, strict=True)
        each = [float(measure.measure_described(f.values, m.values, f.mask * m.mask)[0]) for f, m in pairs]
        losses.append(1 - sum(each) / len(each))
        notify(done, len(_PASSES), losses[-1])
        update = _search(fixed, moved, scale * level.spacing, reach)
        displacement = engine.compose(displacement, ops.resize_displacement(update, shape=grid.shape))
    return displacement, losses


def _describe(values: Array, mask: Array, grid: Grid) -> list[_Described]:
    """The descriptors of each channel of an image."""
    channels, measure = range(values.shape[-1]), SelfSimilarity()
    return [_Described(measure.prepare(take_channel(values, k)), take_channel(mask, k), grid) for k in channels]


def _describe_moved(level: Level, matrix: np.ndarray, displacement: Array) -> list[_Described]:
    """The moving channels' descriptors on the fixed grid, with how much each voxel is known."""
    grid, moving = level.fixed.grid, level.moving
    positions, inside = locate(voxel_matrix(matrix, grid, moving.grid), displacement, moving.grid.shape)
    moved = backend.of(positions).sample(moving.values, positions)
    return _describe(moved, weigh(None, moving.mask, positions, inside), grid)


def _search(fixed: list[_Described], moved: list[_Described], spacing: float, reach: int) -> Array:
    """Displacement `(1, *spatial, ndim)` of control points of a spacing in millimetres, in their voxels."""
    engine = backend.of(fixed[0].values)
    pairs = [(_average(f, spacing), _average(m, spacing)) for f, m in zip(fixed, moved, strict=True)]
    shifts = _list_shifts(pairs[0][0].grid, spacing, reach)
    forward, backward = _measure_costs(engine, pairs, shifts)
    there, back = (_agree(engine, costs, shifts) for costs in (forward, backward))
    for _ in range(_ROUNDS):
        there, back = (there - engine.compose(back, there) + there) / 2, (back - engine.compose(there, back) + back) / 2
    return there


def _average(described: _Described, spacing: float) -> _Described:
    """The descriptors of control points: means of those around them."""
    layer = coarsen(Layer(*described), spacing, blur=_BLUR)
    assert layer.mask is not None  # for it was there before
    return _Described(layer.values, layer.mask, layer.grid)


def _list_shifts(grid: Grid, spacing: float, reach: int) -> _Shifts:
    """Every shift of a grid's points that is no longer than so many spacings along any axis."""
    share = grid.spacing / spacing
    most = [max(1, round(reach / s)) if n > 1 else 0 for n, s in zip(grid.shape, share, strict=True)]
    steps = np.asarray(list(product(*(range(-m, m + 1) for m in most))))
    return _Shifts(steps, steps * share)


def _measure_costs(engine: Any, pairs: list[tuple[_Described, _Described]], shifts: _Shifts) -> tuple[Array, Array]:
    """What each shift of each point costs, `(1, *spatial, shifts)`: read in the moved image, and the other way round.

    What a fixed point is like beside a moved one, the moved one is beside the fixed one: the second follows from the
    first.
    """
    xp = engine.xp
    costs, weights = [], []
    for step in shifts.steps:
        (cost, weight), *others = (_measure_cost(xp, *pair, step) for pair in pairs)
        costs.append(sum((one for one, _ in others), cost) / len(pairs))
        weights.append(sum((one for _, one in others), weight) / len(pairs))
    # The list of shifts is symmetric: from its end come their opposites.
    turned = list(zip(shifts.steps, costs[::-1], weights[::-1], strict=True))
    back = [_shift(xp, cost, step, beyond=0.0) for step, cost, _ in turned]
    back_weights = [_shift(xp, weight, step, beyond=0.0) for step, _, weight in turned]
    return _average_costs(engine, costs, weights), _average_costs(engine, back, back_weights)


def _measure_cost(xp: Any, fixed: _Described, moved: _Described, step: np.ndarray) -> tuple[Array, Array]:
    """What a shift of each point costs in one channel, `(1, *spatial, 1)`, times how much is known; and this."""
    share, weight = 1 / fixed.values.shape[-1], fixed.mask * _shift(xp, moved.mask, step, beyond=0.0)
    difference = fixed.values - _shift(xp, moved.values, step)
    return share * weight * xp.einsum("...k,...k->...", difference, difference)[..., None], weight


def _shift(xp: Any, image: Array, step: np.ndarray, *, beyond: float = 1.0) -> Array:
    """Image whose point x is the given one's x + step; where that lies outside, the edge's value times `beyond`."""
    for axis, offset in enumerate(step.tolist(), start=1):
        image = shift(xp, image, axis=axis, offset=offset, beyond=beyond)
    return image


def _average_costs(engine: Any, costs: list[Array], weights: list[Array]) -> Array:
    """Mean costs of patches; where one is not known, what other shifts of the same point cost on average."""
    xp = engine.xp

    def finish(cost: Array, weight: Array) -> Array:
        cost = cost / xp.maximum(weight, weight * 0 + _KNOWN)
        known = xp.where(weight < _KNOWN, weight * 0, weight * 0 + 1)
        typical = xp.sum(known * cost, axis=-1, keepdims=True) / (xp.sum(known, axis=-1, keepdims=True) + 1e-6)
        return typical + known * (cost - typical)

    cost, weight = (average_box(xp.concatenate(each, axis=-1), size=_PATCH) for each in (costs, weights))
    return engine.map_blocks(finish, cost, weight)


def _agree(engine: Any, costs: Array, shifts: _Shifts) -> Array:
    """The smooth field that costs least, `(1, *spatial, ndim)` in voxels of the control points."""
    xp = engine.xp
    lengths = xp.asarray(shifts.lengths, dtype=xp.dtype(costs), like=costs)
    steps = xp.asarray(shifts.steps, dtype=xp.dtype(costs), like=costs)
    share = xp.asarray(shifts.lengths[-1] / np.maximum(shifts.steps[-1], 1), dtype=xp.dtype(costs), like=costs)
    square = xp.sum(lengths * lengths, axis=-1)
    field = xp.zeros((*costs.shape[:-1], steps.shape[-1]), dtype=xp.dtype(costs), like=costs)
    for coupling in _COUPLING:

        def choose(costs: Array, field: Array, coupling: float = coupling) -> Array:
            distance = square - 2 * xp.matmul(field * share, xp.transpose(lengths, (1, 0)))
            return xp.gather_rows(steps, xp.argmin(costs + coupling * distance, axis=-1))

        field = average_box(engine.map_blocks(choose, costs, field), size=_SMOOTHING)
    return field
