"""The layer that applies a displacement to an image."""

from __future__ import annotations

from typing import Any, get_args

from keramorph import ops
from keramorph._keras import keras
from keramorph._typing import Array, Boundary, Gradient, Order
from keramorph.layers.image_layer import ImageLayer
from keramorph.layers.spatial_layer import Shape, fits, merge


@keras.saving.register_keras_serializable(package="keramorph")
class Warp(ImageLayer):
    """Layer that returns the moved image: `moved(x) = moving(x + u(x))`, differentiable to image and displacement.

    Called with `[moving, displacement]`: the image `(batch, *spatial, channels)` of any data type, and the
    displacement `(batch, *spatial, ndim)` in voxels, component d along spatial axis d, on the grid of the output.
    With channels first they are `(batch, channels, *spatial)` and `(batch, ndim, *spatial)`. The output has the shape
    and the data type of the image; coordinates are float32 or better whatever the data type policy. The layer has no
    weights.

    Args:
        order: Degree of the interpolating spline: 0 (nearest, for labels), 1 (linear) or 3 (cubic B-spline).
        boundary: What lies outside the image, by its name in `scipy.ndimage`: `"constant"`, `"nearest"`,
            `"reflect"`, `"mirror"` or `"wrap"`.
        fill_value: Value outside the image where `boundary` is `"constant"`.
        gradient: Derivative to the displacement: `"exact"`, of the interpolant itself, or `"smooth"`, the central
            difference of the image at the warped position.
        data_format: `"channels_last"` or `"channels_first"`; by default that of `keras.config.image_data_format()`.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If an option cannot take its value.
        ShapeError: If the displacement does not have one component per spatial axis, or the sizes differ.

    Example:
        >>> import numpy as np
        >>> moving = np.arange(5.0, dtype="float32").reshape(1, 5, 1)
        >>> displacement = np.full((1, 5, 1), 0.5, dtype="float32")
        >>> moved = Warp(data_format="channels_last")([moving, displacement])
        >>> keras.ops.convert_to_numpy(moved)[0, :, 0].tolist()
        [0.5, 1.5, 2.5, 3.5, 4.0]

    References:
        Jaderberg, Simonyan, Zisserman and Kavukcuoglu, "Spatial Transformer Networks", 2015,
        doi:10.48550/arXiv.1506.02025.
    """

    takes = ("moving", "displacement")

    def __init__(
        self,
        *,
        order: Order = 1,
        boundary: Boundary = "nearest",
        fill_value: float = 0.0,
        gradient: Gradient = "exact",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(order=order, boundary=boundary, fill_value=fill_value, data_format=data_format, **kwargs)
        self.check_option("gradient", gradient, get_args(Gradient))
        self.gradient = gradient

    def transform(self, moving: Array, displacement: Array) -> Array:
        """Moved image, channels last."""
        return ops.warp(moving, displacement, **self.sampling, gradient=self.gradient)

    def infer_shape(self, moving: Shape, displacement: Shape) -> Shape:
        """Shape of the moved image: that of the moving image."""
        ndim = self.require_axes(0, moving, displacement)
        if len(displacement) != ndim + 2 or not fits(displacement[-1], ndim):
            expected = f"the displacement to have the axes of the image and {ndim} components, one per spatial axis"
            self.refuse(expected, moving, displacement)
        if not all(map(fits, moving[:-1], displacement[:-1])):
            expected = "image and displacement to have the same batch and spatial sizes"
            remedy = "Bring the displacement to the size of the image with ResizeDisplacement."
            self.refuse(expected, moving, displacement, remedy=remedy)
        return (*merge(moving[:-1], displacement[:-1]), moving[-1])

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), "gradient": self.gradient}
