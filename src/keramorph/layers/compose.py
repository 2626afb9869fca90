"""The layer that makes one displacement of two."""

from __future__ import annotations

from keramorph import ops
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.layers.field_layer import FieldLayer
from keramorph.layers.spatial_layer import Shape, fits, merge


@keras.saving.register_keras_serializable(package="keramorph")
class Compose(FieldLayer):
    """Layer that returns the displacement of two warps in a row: `v(x) + u(x + v(x))` for `[u, v]`.

    Called with `[outer, inner]`, both `(batch, *spatial, ndim)` in voxels, or `(batch, ndim, *spatial)` with channels
    first. Warping by `outer` and the result by `inner` is warping by the composition; outside the grid, displacements
    extend their edge. The output has the shape of the inputs, float32 or better. The layer has no weights.

    Args:
        data_format: `"channels_last"` or `"channels_first"`; by default that of `keras.config.image_data_format()`.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If the data format is neither of the two.
        ShapeError: If the shapes differ, or have not one component per spatial axis.

    Example:
        >>> import numpy as np
        >>> step = np.ones((1, 4, 4, 2), dtype="float32")
        >>> composed = Compose(data_format="channels_last")([step, step])
        >>> keras.ops.convert_to_numpy(composed)[0, 0, 0].tolist()
        [2.0, 2.0]
    """

    takes = ("outer", "inner")

    def transform(self, outer: Array, inner: Array) -> Array:
        """Composed displacement, channels last."""
        return ops.compose(outer, inner)

    def infer_shape(self, outer: Shape, inner: Shape) -> Shape:
        """Shape of the composed displacement: that of both."""
        self.require_field(0, outer, inner)
        self.require_field(1, outer, inner)
        if len(outer) != len(inner) or not all(map(fits, outer, inner)):
            remedy = "Bring one to the size of the other with ResizeDisplacement."
            self.refuse("two displacements of the same shape", outer, inner, remedy=remedy)
        return merge(outer, inner)
