"""The prefilter of cubic B-spline interpolation, as a geometric series summed by doubling.

The coefficients are the image filtered by `sqrt(3) * z**|k|` with the pole `z = sqrt(3) - 2` (Unser 1999,
10.1109/79.799930). The causal half is the product of `1 + z**s S**s` over s = 1, 2, 4, 8, 16, with S the shift by one
voxel: five additions, no recursion along the line, the same on every engine, and below float64's rounding.
"""

from __future__ import annotations

import math
from typing import Any

from keramorph._typing import Array
from keramorph.backend.lines import cut, fold

EDGE = 16
"""Voxels by which an edge-extended image is lengthened: behind them its coefficients are the edge value."""
_POLE = math.sqrt(3.0) - 2.0
_REACH = 32


def prefilter(xp: Any, image: Array, boundary: str) -> Array:
    """B-spline coefficients of `(batch, *spatial, channels)`, `EDGE` voxels longer at each end if the edge extends."""
    array = image if xp.dtype(image) in ("float32", "float64") else xp.cast(image, "float32")
    edge = EDGE if boundary == "nearest" else 0
    for axis in range(1, len(xp.shape(array)) - 1):
        count = xp.shape(array)[axis]
        around = edge + _REACH
        index = xp.arange(count + 2 * around, dtype=xp.index_dtype(0), like=array) - around
        array = _filter(xp, xp.take(array, fold(xp, index, count, boundary), axis), axis, count + 2 * edge)
    return array


def prefilter_adjoint(xp: Any, coefficients: Array, boundary: str) -> Array:
    """Adjoint of `prefilter`: `(batch, *spatial, channels)`."""
    edge = EDGE if boundary == "nearest" else 0
    array = coefficients
    for axis in range(1, len(xp.shape(array)) - 1):
        length = xp.shape(array)[axis]
        count, around = length - 2 * edge, edge + _REACH
        widths = [(0, 0)] * len(xp.shape(array))
        widths[axis] = (2 * _REACH, 2 * _REACH)
        array = _filter(xp, xp.pad(array, widths), axis, length + 2 * _REACH)
        index = xp.arange(count + 2 * around, dtype=xp.index_dtype(0), like=array) - around
        array = xp.scatter_add_axis(array, fold(xp, index, count, boundary), axis, count)
    return array


def _filter(xp: Any, extended: Array, axis: int, count: Any) -> Array:
    """Filter a line that was extended by `_REACH` voxels at both ends; returns the `count` voxels between them."""
    after = before = extended
    step = 1
    while step < _REACH:
        length = xp.shape(after)[axis]
        factor = _POLE**step
        after = cut(after, axis, step, length) + factor * cut(after, axis, 0, length - step)
        before = cut(before, axis, 0, length - step) + factor * cut(before, axis, step, length)
        step *= 2
    causal = cut(after, axis, 1, 1 + count)
    anticausal = cut(before, axis, _REACH, _REACH + count)
    return math.sqrt(3.0) * (causal + anticausal - cut(extended, axis, _REACH, _REACH + count))
