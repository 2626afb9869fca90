"""From voxels of the fixed grid to voxels of the moving grid, by way of millimetres."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from keramorph import backend
from keramorph._typing import Array
from keramorph.ops.vectors import Components, multiply_components, sum_products
from keramorph.space import Grid


def voxel_matrix(matrix: np.ndarray, fixed: Grid, moving: Grid) -> np.ndarray:
    """Homogeneous matrix from fixed to moving voxels, of one in millimetres from fixed to moving points."""
    return np.linalg.inv(moving.affine) @ matrix @ fixed.affine


def to_engine(values: np.ndarray, like: Array) -> Array:
    """Float32 array of the engine of `like`, on its device."""
    return backend.of(like).xp.asarray(np.asarray(values, dtype=np.float32), dtype="float32", like=like)


def to_numpy(array: Array) -> np.ndarray:
    """NumPy array of an engine's array, wherever that lies."""
    return np.asarray(array.cpu() if hasattr(array, "cpu") else array)


def voxel_positions(matrix: np.ndarray, shape: tuple[int, ...], like: Array) -> Array:
    """Where a homogeneous matrix, or each of a batch, takes each voxel of a grid: `(batch, *shape, rows - 1)`."""
    matrices = matrix.reshape(-1, *matrix.shape[-2:])[:, :-1]
    batch, rows, _ = matrices.shape
    total = to_engine(matrices[:, :, -1].reshape(batch, *[1] * len(shape), rows), like)
    for axis, count in enumerate(shape):
        sizes = [count if k == axis else 1 for k in range(len(shape))]
        line = np.arange(count)[:, None] * matrices[:, None, :, axis]
        total = total + to_engine(line.reshape(batch, *sizes, rows), like)
    return total


def map_vectors(function: Callable, matrices: np.ndarray, *arrays: Array) -> Array:
    """Return `function(multiply, *arrays)`, computed in blocks where that is faster.

    Args:
        function: What is computed of each voxel; `multiply` takes the components of vectors, as `unstack` gives them,
            by the matrix of their entry of the batch.
        matrices: `(batch, m, n)`.
        *arrays: `(batch, *spatial, channels)`.
    """
    engine = backend.of(arrays[0])
    if (matrices == matrices[0]).all():
        # As numbers, of which zeros and ones cost nothing.
        return engine.map_blocks(partial(function, partial(multiply_components, matrices[0])), *arrays)
    batch, rows, columns = matrices.shape
    factors = matrices.reshape(batch, *[1] * (len(arrays[0].shape) - 2), rows * columns)

    def run(*given: Array) -> Array:
        *blocks, numbers = given

        def multiply(components: Components) -> list[Array]:
            return [
                sum_products(components, [numbers[..., row * columns + k] for k in range(columns)])
                for row in range(rows)
            ]

        return function(multiply, *blocks)

    xp = engine.xp
    return engine.map_blocks(run, *arrays, xp.asarray(factors, dtype=xp.dtype(arrays[0]), like=arrays[0]))


def locate(matrix: np.ndarray, displacement: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Where a homogeneous matrix between voxels takes displaced ones, and how far inside a grid of `shape` they are.

    Args:
        matrix: A, from fixed to moving voxels; one for all of a batch or, `(batch, ndim + 1, ndim + 1)`, one for each.
        displacement: u, `(batch, *spatial, ndim)` in fixed voxels.
        shape: Of the moving grid.

    Returns:
        `A(x + u(x))`, `(batch, *spatial, ndim)`, and what `measure_inside` tells of it.
    """
    engine = backend.of(displacement)
    found = engine.locate(displacement, matrix, shape=shape)
    if found is not None:
        return found
    xp = engine.xp

    def add(multiply: Callable, positions: Array, displacement: Array) -> Array:
        moves = multiply(xp.unstack(displacement))
        return xp.stack([p + m for p, m in zip(xp.unstack(positions), moves, strict=True)], axis=-1)

    matrices = np.broadcast_to(matrix, (displacement.shape[0], *matrix.shape[-2:]))
    straight = voxel_positions(matrices, tuple(displacement.shape[1:-1]), displacement)
    positions = map_vectors(add, matrices[:, :-1, :-1], straight, displacement)
    return positions, measure_inside(positions, shape)


def measure_inside(positions: Array, shape: tuple[int, ...]) -> Array:
    """1 at positions `(batch, *spatial, ndim)` inside a grid of `shape`, 0 outside; `(batch, *spatial, 1)`.

    It fades within a voxel around the outermost voxel centres, so that the similarity changes without jumps.
    """
    engine = backend.of(positions)
    xp = engine.xp

    def fade(positions: Array) -> Array:
        inside = []
        for place, count in zip(xp.unstack(positions), shape, strict=True):
            depth = (count - 1) / 2 + 1 - xp.abs(place - (count - 1) / 2)
            inside.append(xp.clip(depth, 0.0, 1.0))
        return math.prod(inside)[..., None]

    return engine.map_blocks(fade, positions)


def weigh(fixed_mask: Array | None, moving_mask: Array | None, positions: Array, inside: Array) -> Array:
    """Weight of each fixed voxel: how far inside it reads, but 0 where either image says nothing.

    `(batch, *spatial, 1)`, or as many channels as the masks have.
    """
    weight = inside
    if fixed_mask is not None:
        weight = weight * fixed_mask
    if moving_mask is not None:
        weight = weight * backend.of(positions).sample(moving_mask, positions)
    return weight


def weigh_by_any(weight: Array) -> Array:
    """How much each voxel counts in the channel where it counts most, `(1, *spatial, 1)`, of a weight in channels."""
    return weight if weight.shape[-1] == 1 else backend.of(weight).xp.max(weight, axis=-1, keepdims=True)
