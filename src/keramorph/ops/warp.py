"""Deform images and points by a displacement."""

from __future__ import annotations

from keramorph import backend
from keramorph._typing import Array, Boundary, Gradient, Order
from keramorph.errors import ShapeError
from keramorph.ops.operation import check_field, operation


@operation
def warp(
    image: Array,
    displacement: Array,
    *,
    order: Order = 1,
    boundary: Boundary = "nearest",
    fill_value: float = 0.0,
    gradient: Gradient = "exact",
) -> Array:
    """The image pulled through a displacement: `moved(x) = image(x + u(x))`, differentiable to both.

    Args:
        image: `(batch, *spatial, channels)`, any real data type. Labels want `order=0`.
        displacement: `(batch, *spatial, ndim)` in voxels; component d moves along array axis d.
        order: Degree of the interpolating spline: 0, 1 or 3.
        boundary: What lies outside the image, as in `scipy.ndimage.map_coordinates`.
        fill_value: Value outside, where the boundary is `"constant"`.
        gradient: `"exact"` differentiates the interpolant; `"smooth"` interpolates the central difference of the
            image instead, which sees further than one voxel and has no jumps at voxel centres.

    Returns:
        `(batch, *spatial, channels)` in the image's data type; integers are rounded.

    Raises:
        ShapeError: If the displacement is not on the image's grid with one component per axis.
        OptionError: If an option has a value that it cannot take.

    Example:
        >>> import numpy as np
        >>> image = np.arange(4.0)[None, :, None]
        >>> warp(image, np.full((1, 4, 1), 1.0)).ravel().tolist()
        [1.0, 2.0, 3.0, 3.0]

    References:
        Jaderberg et al., Spatial Transformer Networks, 2015, doi:10.48550/arXiv.1506.02025.
    """
    check_field(image, displacement)
    return backend.of(image).sample(
        image, displacement, relative=True, order=order, boundary=boundary, fill_value=fill_value, gradient=gradient
    )


@operation
def warp_points(points: Array, displacement: Array) -> Array:
    """Points of the fixed grid moved to where the displacement reads them: `p + u(p)`.

    Args:
        points: `(batch, count, ndim)` in voxels of the displacement's grid.
        displacement: `(batch, *spatial, ndim)` in voxels; outside its grid the edge value holds.

    Returns:
        `(batch, count, ndim)` in voxels.

    Raises:
        ShapeError: If the points have not one coordinate per spatial axis.

    Example:
        >>> import numpy as np
        >>> warp_points(np.array([[[1.5]]]), np.arange(4.0)[None, :, None]).item()
        3.0
    """
    if len(points.shape) != 3:
        raise ShapeError(
            f"Points have the shape (batch, count, ndim). Received: points of shape {tuple(points.shape)}. "
            "Add the batch axis with `points[None]`."
        )
    check_field(displacement, points, name="points", same_grid=False)
    return points + backend.of(points).sample(displacement, points)
