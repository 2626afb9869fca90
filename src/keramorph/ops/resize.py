"""Images and displacements on a grid of another size over the same field of view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keramorph import backend
from keramorph._typing import Array, Order
from keramorph.errors import ShapeError
from keramorph.ops.operation import check_field, operation, to_sizes


@operation
def resize_image(image: Array, *, shape: Sequence[int], order: Order = 1) -> Array:
    """The image on another number of voxels over the same field of view, its outer faces kept in place.

    Args:
        image: `(batch, *spatial, channels)`, any real data type.
        shape: New spatial shape. Smooth an image first (`gaussian`) before making it smaller.
        order: Degree of the interpolating spline: 0, 1 or 3.

    Returns:
        `(batch, *shape, channels)` in the image's data type.

    Raises:
        ShapeError: If `shape` has another length than there are spatial axes, or a size below 1.

    Example:
        >>> import numpy as np
        >>> resize_image(np.array([0.0, 2.0, 4.0, 6.0])[None, :, None], shape=(2,)).ravel().tolist()
        [1.0, 5.0]
    """
    sizes = _check_shape(image, shape)
    engine = backend.of(image)
    return engine.sample(image, _positions(engine, image, sizes), order=order)


@operation
def resize_displacement(displacement: Array, *, shape: Sequence[int]) -> Array:
    """The displacement on another grid over the same field of view, each component in voxels of the new grid.

    Args:
        displacement: `(batch, *spatial, ndim)` in voxels.
        shape: New spatial shape.

    Returns:
        `(batch, *shape, ndim)` in voxels of the new grid.

    Raises:
        ShapeError: If the shapes do not fit.

    Example:
        >>> import numpy as np
        >>> resize_displacement(np.ones((1, 3, 1)), shape=(6,)).ravel().tolist()
        [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    """
    check_field(displacement, displacement)
    sizes = _check_shape(displacement, shape)
    xp = backend.of(displacement).xp
    dtype = xp.dtype(displacement)
    old = xp.shape(displacement)[1:-1]
    factors = [_ratio(xp, new, n, dtype) for new, n in zip(sizes, old, strict=True)]
    resized = resize_image(displacement, shape=sizes)
    return xp.stack([resized[..., axis] * factor for axis, factor in enumerate(factors)], axis=-1)


def _check_shape(array: Array, shape: Sequence[int]) -> tuple:
    sizes = to_sizes(shape)
    if len(sizes) != len(array.shape) - 2 or any(isinstance(n, int) and n < 1 for n in sizes):
        raise ShapeError(
            f"`shape` must name {len(array.shape) - 2} sizes of at least 1, one per spatial axis. Received: "
            f"shape={shape} for an array of shape {tuple(array.shape)}."
        )
    return sizes


def _ratio(xp: Any, numerator: Any, denominator: Any, dtype: str) -> Any:
    if isinstance(numerator, int) and isinstance(denominator, int):
        return numerator / denominator
    return xp.cast(xp.asarray(numerator), dtype) / xp.cast(xp.asarray(denominator), dtype)


def _positions(engine: Any, image: Array, sizes: tuple) -> Array:
    """Coordinates `(batch, *sizes, ndim)` of the new voxel centres, in voxels of the image."""
    xp = engine.xp
    dtype = "float64" if xp.dtype(image) == "float64" else "float32"
    old, ndim = xp.shape(image)[1:-1], len(sizes)
    lines = []
    for axis, (count, new) in enumerate(zip(old, sizes, strict=True)):
        centres = (xp.arange(new, dtype=dtype, like=image) + 0.5) * _ratio(xp, count, new, dtype) - 0.5
        line = xp.reshape(centres, (1,) * (axis + 1) + (new,) + (1,) * (ndim - 1 - axis))
        lines.append(xp.broadcast_to(line, (xp.shape(image)[0], *sizes)))
    return xp.stack(lines, axis=-1)
