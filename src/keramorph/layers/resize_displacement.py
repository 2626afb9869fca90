"""The layer that brings a displacement to another grid over the same field of view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keramorph import ops
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import OptionError
from keramorph.layers.field_layer import FieldLayer
from keramorph.layers.spatial_layer import Shape


@keras.saving.register_keras_serializable(package="keramorph")
class ResizeDisplacement(FieldLayer):
    """Layer that returns the displacement on a finer or coarser grid over the same field of view.

    Called with a displacement `(batch, *spatial, ndim)` in voxels of its own grid, or `(batch, ndim, *spatial)` with
    channels first. The output, float32 or better, is in voxels of the new grid: each component is multiplied by the
    ratio of the sizes along its own axis. The layer has no weights.

    Exactly one of the two sizes is given: `shape`, where the target is fixed, or `scale`, where it follows the input,
    which may then have any size, also one that is not known when the model is built.

    Args:
        shape: Sizes of the new grid, one integer per spatial axis.
        scale: Voxels of the new grid per voxel of the old one, a number or one per spatial axis; the new sizes are
            rounded to the nearest integer, halves upwards, and are at least 1.
        data_format: `"channels_last"` or `"channels_first"`; by default that of `keras.config.image_data_format()`.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If not exactly one of `shape` and `scale` is given, or one of them is not positive.
        ShapeError: If the displacement does not have one component per spatial axis, or not one per given size.

    Example:
        >>> import numpy as np
        >>> displacement = np.ones((1, 4, 6, 2), dtype="float32")
        >>> resized = ResizeDisplacement(shape=(8, 6), data_format="channels_last")(displacement)
        >>> keras.ops.convert_to_numpy(resized)[0, 0, 0].tolist()
        [2.0, 1.0]
        >>> ResizeDisplacement(scale=0.5).compute_output_shape((None, 4, None, 2))
        (None, 2, None, 2)
    """

    takes = ("displacement",)

    def __init__(
        self,
        *,
        shape: Sequence[int] | None = None,
        scale: float | Sequence[float] | None = None,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(data_format=data_format, **kwargs)
        if (shape is None) == (scale is None):
            raise OptionError(
                "ResizeDisplacement expects either `shape` or `scale`, and not both. "
                f"Received: shape={shape}, scale={scale}."
            )
        self.shape = None if shape is None else tuple(int(n) for n in shape)
        scales: Any = scale if isinstance(scale, (list, tuple)) else [scale]
        self.scale = None if scale is None else tuple(float(s) for s in scales)
        if not min(self.shape or self.scale or (0,)) > 0:
            raise OptionError(f"ResizeDisplacement expects positive sizes. Received: shape={shape}, scale={scale}.")

    def transform(self, displacement: Array) -> Array:
        """Resized displacement, channels last."""
        sizes = self._new_sizes(tuple(keras.ops.shape(displacement)[1:-1]))
        return ops.resize_displacement(displacement, shape=sizes)

    def infer_shape(self, displacement: Shape) -> Shape:
        """Shape of the resized displacement."""
        ndim = self.require_field(0, displacement)
        given = self.shape or self.scale or ()
        if len(given) not in ({ndim} if self.shape else {1, ndim}):
            self.refuse(f"one size per spatial axis, and was made with {given}", displacement)
        return (displacement[0], *self._new_sizes(displacement[1:-1]), displacement[-1])

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), "shape": self.shape, "scale": self.scale}

    def _new_sizes(self, sizes: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.shape is not None:
            return self.shape
        scales = self.scale if self.scale and len(self.scale) == len(sizes) else (self.scale or ())[:1] * len(sizes)
        return tuple(_scaled(size, scale) for size, scale in zip(sizes, scales, strict=True))


def _scaled(size: Any, scale: float) -> Any:
    """Size of the new axis: None stays unknown, and a size that TensorFlow knows only when it runs stays a tensor."""
    if size is None or isinstance(size, int):
        return None if size is None else max(1, int(size * scale + 0.5))
    return keras.ops.maximum(1, keras.ops.cast(keras.ops.cast(size, "float32") * scale + 0.5, "int32"))
