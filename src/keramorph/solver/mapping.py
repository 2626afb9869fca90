"""From voxels of the fixed grid to voxels of the moving grid, by way of millimetres."""

from __future__ import annotations

import math

import numpy as np

from keramorph import backend
from keramorph._typing import Array
from keramorph.ops.vectors import multiply_components
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
    """Where a homogeneous matrix takes each voxel of a grid: `(1, *shape, rows - 1)`, float32."""
    xp = backend.of(like).xp
    ndim = len(shape)
    total = to_engine(matrix[:-1, -1], like)
    for axis, count in enumerate(shape):
        line = to_engine(np.arange(count)[:, None] * matrix[None, :-1, axis], like)
        total = total + xp.reshape(line, (1, *(1,) * axis, count, *(1,) * (ndim - 1 - axis), line.shape[-1]))
    return total


def locate(matrix: np.ndarray, displacement: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Where a homogeneous matrix between voxels takes displaced ones, and how far inside a grid of `shape` they are.

    Args:
        matrix: A, from fixed to moving voxels.
        displacement: u, `(1, *spatial, ndim)` in fixed voxels.
        shape: Of the moving grid.

    Returns:
        `A(x + u(x))`, `(1, *spatial, ndim)`, and what `measure_inside` tells of it.
    """
    engine = backend.of(displacement)
    found = engine.locate(displacement, matrix, shape=shape)
    if found is not None:
        return found
    xp = engine.xp

    def add(positions: Array, displacement: Array) -> Array:
        moves = multiply_components(matrix[:-1, :-1], xp.unstack(displacement))
        return xp.stack([p + m for p, m in zip(xp.unstack(positions), moves, strict=True)], axis=-1)

    straight = voxel_positions(matrix, tuple(displacement.shape[1:-1]), displacement)
    positions = engine.map_blocks(add, straight, displacement)
    return positions, measure_inside(positions, shape)


def measure_inside(positions: Array, shape: tuple[int, ...]) -> Array:
    """1 at positions `(1, *spatial, ndim)` inside a grid of `shape`, 0 outside; `(1, *spatial, 1)`.

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

    `(1, *spatial, 1)`, or as many channels as the masks have.
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
