"""From voxels of the fixed grid to voxels of the moving grid, by way of millimetres."""

from __future__ import annotations

import numpy as np

from keramorph import backend
from keramorph._typing import Array
from keramorph.solver.pyramid import Layer
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


def transform_vectors(field: Array, matrix: np.ndarray) -> Array:
    """Matrix `(m, n)` times each vector of a field `(..., n)`."""
    return backend.of(field).xp.matmul(field, to_engine(matrix.T, field))


def weigh(fixed: Layer, moving: Layer, positions: Array) -> Array:
    """Weight `(1, *spatial, 1)` of each fixed voxel: 1 inside the moving image, 0 where either image says nothing.

    It fades within a voxel around the outermost voxel centres, so that the similarity changes without jumps.
    """
    engine = backend.of(positions)
    xp = engine.xp
    weight = None
    for axis, count in enumerate(moving.grid.shape):
        place = positions[..., axis : axis + 1]
        depth = (count - 1) / 2 + 1 - xp.abs(place - (count - 1) / 2)
        inside = xp.clip(depth, 0.0, 1.0)
        weight = inside if weight is None else weight * inside
    if fixed.mask is not None:
        weight = weight * fixed.mask
    if moving.mask is not None:
        weight = weight * engine.sample(moving.mask, positions)
    return weight
