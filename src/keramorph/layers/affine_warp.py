"""The layer that applies an affine map to an image."""

from __future__ import annotations

from typing import Any

from keramorph import ops
from keramorph._keras import keras
from keramorph._typing import Array, Boundary, Order
from keramorph.layers.image_layer import ImageLayer
from keramorph.layers.spatial_layer import Shape, fits


@keras.saving.register_keras_serializable(package="keramorph")
class AffineWarp(ImageLayer):
    """Layer that returns the image moved by an affine map about the centre of its grid, differentiable to both.

    Called with `[moving, matrix]`: the image `(batch, *spatial, channels)`, or `(batch, channels, *spatial)` with
    channels first, and matrices `[A | b]` of shape `(batch, ndim, ndim + 1)`. The frame is voxels about the centre c of
    the grid, `c = (size - 1) / 2` along each axis, so that rotations and scales leave the middle of the image in place:
    `moved(x) = moving(A (x - c) + b + c)`. `[identity | 0]` leaves the image as it is. Matrices of
    `keramorph.ops.affine_from_parameters` fit; for a matrix about the first voxel instead, warp by
    `keramorph.ops.affine_to_displacement`. The output has the shape and the data type of the image. No weights.

    Args:
        order: Degree of the interpolating spline: 0 (nearest, for labels), 1 (linear) or 3 (cubic B-spline).
        boundary: What lies outside the image, by its name in `scipy.ndimage`: `"constant"`, `"nearest"`,
            `"reflect"`, `"mirror"` or `"wrap"`.
        fill_value: Value outside the image where `boundary` is `"constant"`.
        data_format: `"channels_last"` or `"channels_first"`; by default that of `keras.config.image_data_format()`.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If an option cannot take its value.
        ShapeError: If the matrices are not `(batch, ndim, ndim + 1)` for the image's spatial axes.

    Example:
        >>> import numpy as np
        >>> moving = np.arange(9.0, dtype="float32").reshape(1, 3, 3, 1)
        >>> half_turn = np.array([[[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]], dtype="float32")
        >>> moved = AffineWarp(data_format="channels_last")([moving, half_turn])
        >>> keras.ops.convert_to_numpy(moved)[0, :, :, 0].tolist()
        [[8.0, 7.0, 6.0], [5.0, 4.0, 3.0], [2.0, 1.0, 0.0]]

    References:
        Jaderberg, Simonyan, Zisserman and Kavukcuoglu, "Spatial Transformer Networks", 2015,
        doi:10.48550/arXiv.1506.02025.
    """

    takes = ("moving", "matrix")
    without_channels = ("matrix",)

    def __init__(
        self,
        *,
        order: Order = 1,
        boundary: Boundary = "nearest",
        fill_value: float = 0.0,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(order=order, boundary=boundary, fill_value=fill_value, data_format=data_format, **kwargs)

    def transform(self, moving: Array, matrix: Array) -> Array:
        """Moved image, channels last."""
        shape = tuple(keras.ops.shape(moving)[1:-1])
        displacement = ops.affine_to_displacement(matrix, shape=shape, centered=True)
        return ops.warp(moving, displacement, **self.sampling)

    def infer_shape(self, moving: Shape, matrix: Shape) -> Shape:
        """Shape of the moved image: that of the moving image."""
        ndim = self.require_axes(0, moving, matrix)
        if len(matrix) != 3 or not all(map(fits, matrix, (moving[0], ndim, ndim + 1))):
            remedy = "Leave out the last row of a homogeneous matrix."
            self.refuse(f"matrices of shape (batch, {ndim}, {ndim + 1})", moving, matrix, remedy=remedy)
        return (matrix[0] if moving[0] is None else moving[0], *moving[1:])
