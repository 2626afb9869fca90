"""Images compared voxel by voxel that bend by one vector per block of voxels.

At the finest level of a large volume a vector for every voxel costs more than it is worth: updates are smoother than
that. There the displacement stays on the grid of the level before, and the voxels in a block of it act on its one
vector by what they add up to.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from keramorph import backend, ops
from keramorph._typing import Array
from keramorph.ops.vectors import multiply_components, sum_products
from keramorph.solver.mapping import locate, to_engine, weigh


class BlockSums(NamedTuple):
    """What the voxels of each block add up to, of the fixed image's values f, the moved one's m and its slopes s.

    `moments` are those of m, m² and f m, `(1, *blocks, 3)`; `weights` of how much each voxel counts, `(1, *blocks, 1)`;
    `pushes` of s, f s, m s and |s|², `(1, *blocks, 3 ndim + 1)`.
    """

    moments: Array
    weights: Array
    pushes: Array


class Pair(NamedTuple):
    """Two images `(1, *spatial, 1)` and their masks, None where all counts."""

    fixed: Array
    moving: Array
    fixed_mask: Array | None
    moving_mask: Array | None


def add_up(values: Array, counts: tuple[int, ...]) -> Array:
    """Sums of values `(1, *spatial, channels)` over the voxels of each of so many blocks.

    Of b blocks along an axis of n voxels, block k begins at voxel floor(k n / b).
    """
    xp = backend.of(values).xp
    for axis, count in enumerate(counts, start=1):
        n = values.shape[axis]
        if n % count == 0:
            begin, width = (slice(None),) * axis, n // count
            parts = [values[(*begin, slice(step, None, width))] for step in range(width)]
            values = sum(parts[1:], parts[0])
            continue
        edges = _find_edges(n, count)
        total: Any = 0.0
        for step in range(int(np.diff(edges).max())):
            taken = edges[:-1] + step < edges[1:]
            index = xp.asarray(np.minimum(edges[:-1] + step, n - 1), dtype="int32", like=values)
            share = to_engine(taken.reshape(-1, *[1] * (len(values.shape) - 1 - axis)), values)
            total = total + xp.take(values, index, axis=axis) * share
        values = total
    return values


def count_voxels(shape: tuple[int, ...], counts: tuple[int, ...]) -> np.ndarray:
    """How many voxels of a grid each of so many blocks has, `(1, *blocks, 1)`."""
    lengths = [np.diff(_find_edges(n, count)) for n, count in zip(shape, counts, strict=True)]
    return reduce(np.multiply.outer, lengths)[None, ..., None]


def _find_edges(n: int, count: int) -> np.ndarray:
    """Where each of so many blocks of n voxels begins, and where the last one ends."""
    return np.arange(count + 1) * n // count


def add_blocks(pair: Pair, displacement: Array, matrix: np.ndarray, to_push: np.ndarray) -> BlockSums:
    """Return what the voxels of each block add up to where a displacement leads them.

    Args:
        pair: Both images.
        displacement: `(1, *blocks, ndim)`, one vector per block, in blocks; linear between them.
        matrix: Homogeneous matrix from fixed to moving voxels, applied after the displacement.
        to_push: What slopes, in moving voxels, are multiplied by, `(ndim, ndim)`.
    """
    engine = backend.of(displacement)
    shape, counts = tuple(pair.fixed.shape[1:-1]), tuple(displacement.shape[1:-1])
    found = engine.add_blocks(tuple(pair), displacement, matrix, to_push)
    if found is not None:
        return BlockSums(*found)
    xp = engine.xp
    finer = ops.resize_displacement(displacement, shape=shape)
    positions, inside = locate(matrix, finer, tuple(pair.moving.shape[1:-1]))
    weight = weigh(pair.fixed_mask, pair.moving_mask, positions, inside)
    moved, slope = engine.sample_with_derivative(pair.moving, positions)

    def multiply(fixed: Array, moved: Array, slope: Array) -> tuple[Array, Array]:
        push = xp.stack(multiply_components(to_push, xp.unstack(slope)), axis=-1)
        square = sum_products(*[xp.unstack(push)] * 2)[..., None]
        moments = xp.concatenate([moved, moved * moved, fixed * moved], axis=-1)
        return moments, xp.concatenate([push, fixed * push, moved * push, square], axis=-1)

    products = engine.map_blocks(multiply, pair.fixed, moved, slope[..., 0, :])
    moments, pushes = (add_up(product, counts) for product in products)
    return BlockSums(moments, add_up(weight, counts), pushes)
