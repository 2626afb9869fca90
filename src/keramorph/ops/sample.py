"""Read images at absolute coordinates, and the adjoint of that."""

from __future__ import annotations

from collections.abc import Sequence

from keramorph import backend
from keramorph._typing import Array, Boundary, Order
from keramorph.errors import ShapeError
from keramorph.ops.operation import check_field, operation, to_sizes


@operation
def sample(
    image: Array, coordinates: Array, *, order: Order = 1, boundary: Boundary = "nearest", fill_value: float = 0.0
) -> Array:
    """Values of an image at absolute coordinates, differentiable to both.

    Args:
        image: `(batch, *spatial, channels)`, any real data type.
        coordinates: `(batch, *field, ndim)` in voxels of the image; 0 is the centre of the first voxel.
        order: Degree of the interpolating spline: 0, 1 or 3.
        boundary: What lies outside the image, as in `scipy.ndimage.map_coordinates`.
        fill_value: Value outside, where the boundary is `"constant"`.

    Returns:
        `(batch, *field, channels)` in the image's data type; integers are rounded.

    Raises:
        ShapeError: If the coordinates have not one component per spatial axis, or another batch size.
        OptionError: If an option has a value that it cannot take.

    Example:
        >>> import numpy as np
        >>> image = np.array([0.0, 10.0, 20.0])[None, :, None]
        >>> sample(image, np.array([[[0.5], [1.25]]])).ravel().tolist()
        [5.0, 12.5]

    References:
        Unser, Splines: a perfect fit for signal and image processing, 1999, doi:10.1109/79.799930 (order 3).
    """
    check_field(image, coordinates, name="coordinates", same_grid=False)
    return backend.of(image).sample(image, coordinates, order=order, boundary=boundary, fill_value=fill_value)


@operation
def splat(
    values: Array, coordinates: Array, *, shape: Sequence[int], order: Order = 1, boundary: Boundary = "nearest"
) -> Array:
    """Values spread onto the voxels that `sample` would have read: its exact adjoint to the image.

    Args:
        values: `(batch, *field, channels)`, floating point.
        coordinates: `(batch, *field, ndim)` in voxels of the result.
        shape: Spatial shape of the result, `ndim` sizes.
        order: Degree of the interpolating spline: 0, 1 or 3.
        boundary: Where values go that fall outside.

    Returns:
        `(batch, *shape, channels)` with `sum(sample(x, c) * y) == sum(x * splat(y, c))` for every x.

    Raises:
        ShapeError: If the shapes do not fit together.
        OptionError: If an option has a value that it cannot take.

    Example:
        >>> import numpy as np
        >>> splat(np.ones((1, 1, 1)), np.array([[[0.25]]]), shape=(3,)).ravel().tolist()
        [0.75, 0.25, 0.0]
    """
    sizes = to_sizes(shape)
    _check_splat(values, coordinates, sizes)
    return backend.of(values).splat(values, coordinates, shape=sizes, order=order, boundary=boundary)


def _check_splat(values: Array, coordinates: Array, shape: tuple) -> None:
    """Raise unless values, coordinates and shape belong together.

    Raises:
        ShapeError: If they do not.
    """
    got, where = tuple(values.shape), tuple(coordinates.shape)
    if len(got) != len(where) or got[:-1] != where[:-1] or where[-1] != len(shape):
        raise ShapeError(
            "Values and coordinates must share their batch and field axes, with one coordinate per axis of `shape`. "
            f"Received: values of shape {got}, coordinates of shape {where}, shape={shape}."
        )
