"""Local means, normalised by the number of voxels that the window really holds."""

from keramorph import backend
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.losses.images import spatial_axes

ops = keras.ops


def average_box(array: Array, *, size: int) -> Array:
    """Mean of `(batch, *spatial, channels)` over a box of `size` voxels; at the border, over its part inside."""
    total = backend.of(array).window_sum(array, size=size)
    for axis in spatial_axes(array):
        total = total / _count_inside(array, axis=axis, radius=size // 2)
    return total


def _count_inside(array: Array, *, axis: int, radius: int) -> Array:
    """How many voxels of a window lie inside the grid along one axis, shaped to broadcast against the array."""
    count = ops.shape(array)[axis]
    position = ops.arange(count, dtype="int32")
    inside = ops.minimum(position + radius, count - 1) - ops.maximum(position - radius, 0) + 1
    shape = [1] * len(array.shape)
    shape[axis] = -1
    return ops.cast(ops.reshape(inside, shape), array.dtype)
