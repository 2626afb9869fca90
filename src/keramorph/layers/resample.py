"""The layer that reads an image at absolute coordinates."""

from __future__ import annotations

from typing import Any

from keramorph import ops
from keramorph._keras import keras
from keramorph._typing import Array, Boundary, Order
from keramorph.layers.image_layer import ImageLayer
from keramorph.layers.spatial_layer import Shape, fits


@keras.saving.register_keras_serializable(package="keramorph")
class Resample(ImageLayer):
    """Layer that returns the values of an image at absolute coordinates, differentiable to both.

    Called with `[image, coordinates]`: the image `(batch, *spatial, channels)` and the coordinates
    `(batch, *field, ndim)` in voxels of the image, index 0 the centre of the first voxel, component d along spatial
    axis d. `field` is anything, also a list of points. The output is `(batch, *field, channels)` in the data type of
    the image. With channels first: `(batch, channels, *spatial)`, `(batch, ndim, *field)` and
    `(batch, channels, *field)`. The layer has no weights.

    Args:
        order: Degree of the interpolating spline: 0 (nearest), 1 (linear) or 3 (cubic B-spline).
        boundary: What lies outside the image, by its name in `scipy.ndimage`: `"constant"`, `"nearest"`,
            `"reflect"`, `"mirror"` or `"wrap"`.
        fill_value: Value outside the image where `boundary` is `"constant"`.
        data_format: `"channels_last"` or `"channels_first"`; by default that of `keras.config.image_data_format()`.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If an option cannot take its value.
        ShapeError: If the coordinates do not have one component per spatial axis.

    Example:
        >>> import numpy as np
        >>> image = np.arange(12.0, dtype="float32").reshape(1, 3, 4, 1)
        >>> points = np.array([[[0.0, 0.5], [1.5, 2.0]]], dtype="float32")
        >>> values = Resample(data_format="channels_last")([image, points])
        >>> keras.ops.convert_to_numpy(values)[0, :, 0].tolist()
        [0.5, 8.0]
    """

    takes = ("image", "coordinates")

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

    def transform(self, image: Array, coordinates: Array) -> Array:
        """Values at the coordinates, channels last."""
        return ops.sample(image, coordinates, **self.sampling)

    def infer_shape(self, image: Shape, coordinates: Shape) -> Shape:
        """Shape of the values: the field of the coordinates, the channels of the image."""
        ndim = self.require_axes(0, image, coordinates)
        if len(coordinates) < 3 or not fits(coordinates[-1], ndim) or not fits(image[0], coordinates[0]):
            expected = f"coordinates with the batch size of the image, an axis of points and {ndim} components"
            self.refuse(expected, image, coordinates)
        batch = coordinates[0] if image[0] is None else image[0]
        return (batch, *coordinates[1:-1], image[-1])
