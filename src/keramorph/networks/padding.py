"""Layers that let a network of poolings take images of any size: pad to a multiple, crop back."""

from __future__ import annotations

from typing import Any

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import OptionError
from keramorph.layers.spatial_layer import Shape, SpatialLayer


@keras.saving.register_keras_serializable(package="keramorph")
class PadToMultiple(SpatialLayer):
    """Layer that returns the tensor with zeros around it, so that each spatial size is a multiple of a number.

    Zeros are what a convolution with "same" padding sees outside anyway. Where the zeros are an odd number, the one
    more goes to the end. Sizes need not be known before the layer runs.

    Args:
        multiple: What each spatial size of the output is a multiple of.
        data_format: `"channels_last"` or `"channels_first"`; by default that of `keras.config.image_data_format()`.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If `multiple` is not an integer of at least 1.

    Example:
        >>> PadToMultiple(16).compute_output_shape((None, 200, None, 2))
        (None, 208, None, 2)
    """

    takes = ("tensor",)

    def __init__(self, multiple: int, *, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(data_format=data_format, **kwargs)
        if int(multiple) != multiple or multiple < 1:
            raise OptionError(
                f"PadToMultiple expects `multiple` to be an integer of at least 1. Received: multiple={multiple!r}."
            )
        self.multiple = int(multiple)

    def transform(self, tensor: Array) -> Array:
        """Padded tensor, channels last."""
        missing = [self._missing(n) for n in keras.ops.shape(tensor)[1:-1]]
        if all(isinstance(m, int) and m == 0 for m in missing):
            return tensor
        # One voxel more, and off again: TensorFlow's graphs merge a plain padding with the 3-D convolution that follows
        # and lose the padding of that.
        padded = keras.ops.pad(tensor, [[0, 0], *([m // 2, m - m // 2 + 1] for m in missing), [0, 0]])
        return padded[(slice(None), *(slice(-1) for _ in missing))]

    def infer_shape(self, tensor: Shape) -> Shape:
        """Shape of the padded tensor."""
        self.require_axes(0, tensor)
        sizes = (None if n is None else n + self._missing(n) for n in tensor[1:-1])
        return (tensor[0], *sizes, tensor[-1])

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), "multiple": self.multiple}

    def _missing(self, size: Any) -> Any:
        return -size % self.multiple


@keras.saving.register_keras_serializable(package="keramorph")
class CropToMatch(SpatialLayer):
    """Layer that returns the middle of a tensor, as large as a reference: what `PadToMultiple` added comes off.

    Called with `[tensor, reference]`; of the reference only the spatial sizes are read.

    Args:
        data_format: `"channels_last"` or `"channels_first"`; by default that of `keras.config.image_data_format()`.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        ShapeError: If the reference has not as many axes as the tensor, or is larger.

    Example:
        >>> CropToMatch().compute_output_shape([(None, 208, 208, 16), (None, 200, 200, 2)])
        (None, 200, 200, 16)
    """

    takes = ("tensor", "reference")

    def transform(self, tensor: Array, reference: Array) -> Array:
        """Cropped tensor, channels last."""
        large, small = keras.ops.shape(tensor)[1:-1], keras.ops.shape(reference)[1:-1]
        starts = [(n - m) // 2 for n, m in zip(large, small, strict=True)]
        middle = tuple(slice(start, start + m) for start, m in zip(starts, small, strict=True))
        return tensor[(slice(None), *middle)]

    def infer_shape(self, tensor: Shape, reference: Shape) -> Shape:
        """Shape of the cropped tensor."""
        self.require_axes(0, tensor, reference)
        sizes = zip(tensor[1:-1], reference[1:-1], strict=False)
        if len(tensor) != len(reference) or any(n is not None and m is not None and m > n for n, m in sizes):
            self.refuse("a reference with the axes of the tensor, and nowhere larger", tensor, reference)
        return (tensor[0], *reference[1:-1], tensor[-1])
