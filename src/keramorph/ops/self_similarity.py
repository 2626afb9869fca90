"""Modality independent neighbourhood descriptors: what a patch is like beside those around it."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from keramorph import backend
from keramorph._typing import Array
from keramorph.ops.windows import average_box

_VARIANCE_RANGE = 1e-3
"""A local variance stays within this factor of the image's mean one, downwards, and its inverse, upwards."""

_FLOOR = 1e-6
"""Added to the mean local variance, in units of the image's own: a constant image would divide zero by zero."""


def describe_self_similarity(image: Array, *, radius: int = 1, dilation: int = 2) -> Array:
    """Return the distances between the patches around each voxel, which survive a change of contrast.

    Args:
        image: `(batch, *spatial, channels)` of a floating type, two or more spatial axes, its values about 1 apart.
        radius: Patches are boxes of `2 * radius + 1` voxels.
        dilation: How many voxels away along each axis they lie.

    Returns:
        `(batch, *spatial, pairs, channels)` in (0, 1]: one value for each two neighbours not opposite each other.

    References:
        Heinrich et al., Towards realtime multimodal fusion for image-guided interventions using self-similarities,
        2013, doi:10.1007/978-3-642-40811-3_24.
    """
    xp = backend.of(image).xp
    axes = tuple(range(1, len(image.shape) - 1))
    neighbours = [
        (axis, shift(xp, image, axis=axis, offset=offset)) for axis in axes for offset in (-dilation, dilation)
    ]
    # Two neighbours along one axis are opposite each other.
    squares = [(a - b) * (a - b) for (i, a), (j, b) in combinations(neighbours, 2) if i != j]
    distances = average_box(xp.concatenate(squares, axis=-1), size=2 * radius + 1)
    distances = xp.reshape(distances, (*xp.shape(image)[:-1], len(squares), image.shape[-1]))
    distances = distances - xp.min(distances, axis=-2, keepdims=True)
    variance = xp.sum(distances, axis=-2, keepdims=True) / len(squares)
    typical = xp.mean(variance, axis=axes, keepdims=True) + _FLOOR
    return xp.exp(-distances / xp.minimum(xp.maximum(variance, _VARIANCE_RANGE * typical), typical / _VARIANCE_RANGE))


def shift(xp: Any, image: Array, *, axis: int, offset: int, beyond: float = 1.0) -> Array:
    """Image whose voxel i along an axis is voxel i + offset of the given one; beyond it the edge, times `beyond`."""
    if offset == 0:
        return image
    size = xp.shape(image)[axis]
    before: list[slice] = [slice(None)] * len(image.shape)
    first, last, window = list(before), list(before), list(before)
    first[axis], last[axis] = slice(0, 1), slice(-1, None)
    window[axis] = slice(abs(offset) + offset, abs(offset) + offset + size)
    before_it, after_it = image[tuple(first)] * beyond, image[tuple(last)] * beyond
    pieces = [before_it] * abs(offset) + [image] + [after_it] * abs(offset)
    return xp.concatenate(pieces, axis=axis)[tuple(window)]
