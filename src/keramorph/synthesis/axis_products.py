"""Products of an image with a matrix along one axis: how fields are enlarged, and images blurred and cut into slices.

A product of matrices is the one operation that every framework does fast, whatever the matrix is drawn from.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from keramorph._keras import keras
from keramorph._typing import Array

ops = keras.ops


def multiply_axis(array: Array, matrix: Any, axis: int) -> Array:
    """Array `(batch, ...)` with one axis of `count` voxels turned into `new` ones.

    Args:
        array: Sizes of all axes but the first are known.
        matrix: `(new, count)`, or one for each entry of the batch, `(batch, new, count)`.
        axis: Which axis, 1 or more.
    """
    shape = tuple(array.shape)
    before, count, after = math.prod(shape[1:axis]), shape[axis], math.prod(shape[axis + 1 :])
    each = len(matrix.shape) == 3
    if after == 1:
        lines = ops.reshape(array, (-1, before, count) if each else (-1, count))
        lines = ops.matmul(lines, ops.swapaxes(matrix, -1, -2))
    elif each and before > 1:
        lines = ops.matmul(matrix[:, None], ops.reshape(array, (-1, before, count, after)))
    else:
        lines = ops.matmul(matrix, ops.reshape(array, (-1, count, after)))
    return ops.reshape(lines, (-1, *shape[1:axis], matrix.shape[-2], *shape[axis + 1 :]))


@functools.lru_cache(maxsize=64)
def weigh_noise(size: int, points: int, scale: float) -> np.ndarray:
    """Matrix from nodes `scale` voxels apart to points of an axis, `(points, nodes)`, by cubic B-splines.

    The points divide the `size` voxels of the axis evenly. Each row has length 1: independent nodes of variance 1
    make values of variance 1, at the nodes and between them alike.
    """
    voxels = (np.arange(points) + 0.5) * (size / points) - 0.5
    # One node lies before the first voxel, which the spline there reaches.
    positions = voxels / scale + 1.0
    nodes = np.arange(int(positions[-1]) + 3)
    weights = _cubic_spline(positions[:, None] - nodes)
    return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype("float32")


@functools.lru_cache(maxsize=64)
def weigh_enlargement(size: int, points: int) -> np.ndarray:
    """Matrix from `points` of an axis to all its `size` voxels, by cubic B-splines that extend the edge."""
    positions = (np.arange(size) + 0.5) * (points / size) - 0.5
    nodes = np.arange(-2, points + 2)
    weights = _cubic_spline(positions[:, None] - nodes)
    inside = np.eye(points)[np.clip(nodes, 0, points - 1)]
    return (weights @ inside).astype("float32")


def _cubic_spline(distance: np.ndarray) -> np.ndarray:
    distance = np.abs(distance)
    inner = 2 / 3 - distance**2 + distance**3 / 2
    return np.where(distance < 1, inner, np.maximum(2 - distance, 0) ** 3 / 6)
