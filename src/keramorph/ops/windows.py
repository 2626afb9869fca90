"""Local means, normalised by the number of voxels that the window really holds."""

from __future__ import annotations

from keramorph import backend
from keramorph._typing import Array


def average_box(array: Array, *, size: int) -> Array:
    """Mean of `(batch, *spatial, channels)` over a box of `size` voxels; at the border, over its part inside."""
    total = backend.of(array).window_sum(array, size=size)
    for axis in range(1, len(array.shape) - 1):
        total = total / _count_inside(array, axis=axis, radius=size // 2)
    return total


def _count_inside(array: Array, *, axis: int, radius: int) -> Array:
    """How many voxels of a window lie inside the grid along one axis, shaped to broadcast against the array."""
    xp = backend.of(array).xp
    count = xp.shape(array)[axis]
    position = xp.arange(count, dtype="int32", like=array)
    inside = xp.clip(position + radius, 0, count - 1) - xp.clip(position - radius, 0, count - 1) + 1
    shape = [1] * len(array.shape)
    shape[axis] = count
    return xp.cast(xp.reshape(inside, tuple(shape)), xp.dtype(array))
