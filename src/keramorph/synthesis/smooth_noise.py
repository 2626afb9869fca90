"""Smooth random fields, from which shapes, deformations and bias fields are made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.synthesis.axis_products import multiply_axis, weigh_noise
from keramorph.synthesis.random_layer import RandomLayer, broadcast_over

ops = keras.ops


def draw_smooth_noise(
    layer: RandomLayer,
    count: Any,
    sizes: Sequence[int],
    *,
    scales: Sequence[float],
    points: Sequence[int] | None = None,
) -> Array:
    """Smooth Gaussian noise `(count, *points)` of mean 0 and variance 1 at each point, twice differentiable.

    Args:
        layer: Whose random numbers are taken.
        count: Number of fields, each of its own numbers.
        sizes: Voxels along each axis.
        scales: Voxels between the independent nodes of the parts that each field adds up; how much of which it has is
            drawn too.
        points: Points along each axis, which divide the voxels evenly; None takes the voxels.
    """
    points = sizes if points is None else points
    # Never all zero, however small the shares that are drawn.
    shares = layer.draw_uniform((count, len(scales)), (1e-3, 1.0))
    shares = shares * ops.rsqrt(ops.sum(ops.square(shares), axis=-1, keepdims=True))
    matrices = [[weigh_noise(size, n, scale) for size, n in zip(sizes, points, strict=True)] for scale in scales]
    shapes = [tuple(matrix.shape[1] for matrix in each) for each in matrices]
    # All nodes in one draw: XLA takes longest to compile random numbers, for each shape anew.
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    nodes = layer.draw_normal((count, int(ends[-1])))
    total = 0.0
    for index, (each, shape, end) in enumerate(zip(matrices, shapes, ends.tolist(), strict=True)):
        part = nodes[:, end - math.prod(shape) : end] * shares[:, index : index + 1]
        part = ops.reshape(part, (-1, *shape))
        for axis, matrix in enumerate(each, start=1):
            part = multiply_axis(part, matrix, axis)
        total = total + part
    return total


def draw_field(
    layer: RandomLayer,
    count: Any,
    sizes: Sequence[int],
    *,
    strength: tuple[float, float],
    scales: Sequence[float],
    points: Sequence[int],
) -> Array:
    """Smooth vectors `(count, *points, ndim)` in units of the distance between points.

    Args:
        layer: Whose random numbers are taken.
        count: Number of fields.
        sizes: Voxels along each axis.
        strength: Limits of the standard deviation of the components in voxels, one of which is drawn for each field.
        scales: Voxels between the independent nodes of the parts that are added up.
        points: Points along each axis, which divide the voxels evenly.
    """
    ndim = len(sizes)
    noise = draw_smooth_noise(layer, count * ndim, sizes, scales=scales, points=points)
    deviation = broadcast_over(layer.draw_uniform((count,), strength), ndim)
    components = ops.split(ops.reshape(noise, (-1, ndim, *points)), ndim, axis=1)
    return ops.stack(
        [
            component[:, 0] * (deviation * (n / size))
            for component, n, size in zip(components, points, sizes, strict=True)
        ],
        axis=-1,
    )
