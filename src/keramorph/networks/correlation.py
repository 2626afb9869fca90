"""The layer that compares the features of two images at all small displacements."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import OptionError
from keramorph.layers.spatial_layer import Shape, SpatialLayer, fits, merge


@keras.saving.register_keras_serializable(package="keramorph")
class Correlation(SpatialLayer):
    """Layer that returns, for each voxel, how well its features match those of each voxel near it in another image.

    Called with `[fixed, moving]`, features `(batch, *spatial, channels)` both. Channel k of the output
    `(batch, *spatial, (2 * radius + 1)**ndim)` is the mean over the channels of `fixed(x) moving(x + o_k)`, the offsets
    o in the order of `itertools.product(range(-radius, radius + 1), repeat=ndim)`; outside its grid `moving` is zero.
    The data type is that of the fixed features.

    Args:
        radius: How many voxels away along each axis a match may lie.
        data_format: `"channels_last"` or `"channels_first"`; by default that of `keras.config.image_data_format()`.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If the radius is not an integer of at least 0.
        ShapeError: If the features do not lie on the same grid, or have not as many channels.

    Example:
        >>> import numpy as np
        >>> fixed, moving = np.ones((1, 3, 1), "float32"), np.array([[[1.0], [2.0], [3.0]]], "float32")
        >>> volume = Correlation(1, data_format="channels_last")([fixed, moving])
        >>> keras.ops.convert_to_numpy(volume)[0].tolist()
        [[0.0, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 0.0]]
    """

    takes = ("fixed", "moving")

    def __init__(self, radius: int = 1, *, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(data_format=data_format, **kwargs)
        if int(radius) != radius or radius < 0:
            raise OptionError(
                f"Correlation expects `radius` to be an integer of at least 0. Received: radius={radius!r}."
            )
        self.radius = int(radius)

    def transform(self, fixed: Array, moving: Array) -> Array:
        """Correlation volume, channels last."""
        return _correlate(self.radius)(fixed, moving)

    def infer_shape(self, fixed: Shape, moving: Shape) -> Shape:
        """Shape of the volume: that of the features, with a channel for each offset."""
        ndim = self.require_axes(0, fixed, moving)
        if len(fixed) != len(moving) or not all(map(fits, fixed, moving)):
            self.refuse("features of the same shape", fixed, moving)
        return (*merge(fixed, moving)[:-1], (2 * self.radius + 1) ** ndim)

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), "radius": self.radius}


def _correlate(radius: int) -> Callable[[Array, Array], Array]:
    """Correlation with a derivative of its own: the frameworks' would keep the features once more for each offset."""

    def correlate(fixed: Array, moving: Array) -> tuple[Array, Callable]:
        starts = list(product(range(2 * radius + 1), repeat=len(fixed.shape) - 2))
        sizes, channels = keras.ops.shape(fixed)[1:-1], fixed.shape[-1]

        def frame(tensor: Array) -> Array:
            return keras.ops.pad(tensor, [[0, 0], *([radius, radius] for _ in sizes), [0, 0]])

        def cut(framed: Array, start: tuple[int, ...]) -> Array:
            window = (slice(first, first + size) for first, size in zip(start, sizes, strict=True))
            return framed[(slice(None), *window)]

        def differentiate(*saved: Array, upstream: Array | None = None) -> tuple[Array, Array]:
            # PyTorch gives what went in and names the cotangent; the others give the cotangent alone.
            cotangent = (saved[-1] if upstream is None else upstream) / channels
            around, moving_around, fixed_around = frame(cotangent), frame(moving), frame(fixed)
            to_fixed, to_moving = keras.ops.zeros_like(fixed), keras.ops.zeros_like(moving)
            for index, start in enumerate(starts):
                back, entry = tuple(2 * radius - first for first in start), slice(index, index + 1)
                to_fixed = to_fixed + cotangent[..., entry] * cut(moving_around, start)
                to_moving = to_moving + cut(around, back)[..., entry] * cut(fixed_around, back)
            return to_fixed, to_moving

        # A sum over many channels might overflow in half precision, if it were divided afterwards.
        framed, shares = frame(moving), fixed / channels
        volume = [keras.ops.sum(shares * cut(framed, start), axis=-1) for start in starts]
        return keras.ops.stack(volume, axis=-1), differentiate

    return keras.ops.custom_gradient(correlate)
