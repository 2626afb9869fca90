"""Layers of a Swin transformer for any number of spatial axes: attention within windows, and merging of patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import OptionError, ShapeError
from keramorph.layers.spatial_layer import Shape, SpatialLayer

_APART = -1e9
"""Logit of two tokens that do not see each other."""


@keras.saving.register_keras_serializable(package="keramorph")
class WindowAttention(keras.layers.Layer):
    """Layer that returns the attention of tokens to those in the same window, `(batch, *spatial, channels)`.

    Called with queries, keys and values `(batch, *spatial, 3 * channels)`, each the channels of all heads. The grid is
    cut into windows, from the first token or from half a window on; in the latter case those at the two ends of an axis
    share a window and do not see each other. A grid whose sizes are no multiples of the window is padded at the end,
    and no token sees the padding. The weights are a bias for each head and each offset between two tokens.

    Args:
        heads: Number of heads, which divides the channels.
        window: Tokens in a window along each axis.
        shifted: Whether the windows begin half a window on.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If the heads or the windows are not positive numbers.
        ShapeError: If the channels are not three for each head, or the window has not a size for each axis.

    References:
        Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", 2021,
        doi:10.1109/ICCV48922.2021.00986.
    """

    def __init__(self, heads: int, window: Sequence[int], *, shifted: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if heads < 1 or not window or min(window) < 1:
            raise OptionError(
                "WindowAttention expects a positive number of heads and a window of positive sizes. "
                f"Received: heads={heads}, window={window}."
            )
        self.heads = int(heads)
        self.window = tuple(int(size) for size in window)
        self.shifted = bool(shifted)

    def build(self, input_shape: Any) -> None:
        """Make the bias of each offset."""
        if input_shape[-1] % (3 * self.heads) or len(input_shape) != len(self.window) + 2:
            raise ShapeError(
                f"WindowAttention expects (batch, *spatial, 3 * channels), {len(self.window)} spatial axes for "
                f"window={self.window} and channels that heads={self.heads} divides. Received: shape={input_shape}."
            )
        count = math.prod(2 * size - 1 for size in self.window)
        near_zero = keras.initializers.TruncatedNormal(stddev=0.02)
        self.bias = self.add_weight(shape=(count, self.heads), initializer=near_zero, name="bias")

    def call(self, inputs: Any) -> Array:
        """Attended values."""
        sizes = keras.ops.shape(inputs)[1:-1]
        missing = [-size % width for size, width in zip(sizes, self.window, strict=True)]
        padded = [size + more for size, more in zip(sizes, missing, strict=True)]
        axes, shifts = tuple(range(1, len(sizes) + 1)), tuple(width // 2 * self.shifted for width in self.window)
        tokens = keras.ops.pad(inputs, [[0, 0], *([0, more] for more in missing), [0, 0]])
        if self.shifted:
            tokens = keras.ops.roll(tokens, tuple(-shift for shift in shifts), axis=axes)
        attended = self._attend(self._cut(tokens), self._cut(self._number_regions(sizes, padded, shifts)))
        tokens = self._join(attended, keras.ops.shape(inputs)[0], padded)
        if self.shifted:
            tokens = keras.ops.roll(tokens, shifts, axis=axes)
        return tokens[(slice(None), *(slice(0, size) for size in sizes))]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Shape of the attended values: a third of the channels."""
        return (*input_shape[:-1], input_shape[-1] // 3)

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), "heads": self.heads, "window": self.window, "shifted": self.shifted}

    def _number_regions(self, sizes: Any, padded: Any, shifts: Sequence[int]) -> Array:
        """A number for each token of the shifted grid, `(1, *padded, 1)`: those of one number may see each other."""
        ndim = len(self.window)
        inside: Any = True
        wrapped: Any = 0
        for axis, (size, full, shift) in enumerate(zip(sizes, padded, shifts, strict=True)):
            place = keras.ops.arange(full, dtype="int32") + shift
            shape = (1,) * (axis + 1) + (-1,) + (1,) * (ndim - axis)
            beyond = keras.ops.reshape(place >= full, shape)
            place = keras.ops.reshape(keras.ops.where(place >= full, place - full, place), shape)
            inside = keras.ops.logical_and(inside, place < size)
            wrapped = wrapped + keras.ops.cast(beyond, "int32") * 2**axis
        return keras.ops.where(inside, wrapped, -1)

    def _cut(self, tokens: Array) -> Array:
        """Tokens by window, `(batch, windows, tokens, channels)`."""
        batch, *sizes, channels = keras.ops.shape(tokens)
        split: list[Any] = [batch]
        for size, width in zip(sizes, self.window, strict=True):
            split += [size // width, width]
        ndim = len(sizes)
        order = (0, *range(1, 2 * ndim, 2), *range(2, 2 * ndim + 1, 2), 2 * ndim + 1)
        tokens = keras.ops.transpose(keras.ops.reshape(tokens, (*split, channels)), order)
        return keras.ops.reshape(tokens, (batch, -1, math.prod(self.window), channels))

    def _join(self, windows: Array, batch: Any, sizes: Any) -> Array:
        """The grid again: what undoes `_cut`."""
        ndim, channels = len(self.window), windows.shape[-1]
        counts = [size // width for size, width in zip(sizes, self.window, strict=True)]
        tokens = keras.ops.reshape(windows, (batch, *counts, *self.window, channels))
        order = [0]
        for axis in range(1, ndim + 1):
            order += [axis, axis + ndim]
        return keras.ops.reshape(keras.ops.transpose(tokens, (*order, 2 * ndim + 1)), (batch, *sizes, channels))

    def _attend(self, windows: Array, regions: Array) -> Array:
        """Values averaged by how well the keys match the queries, in each window and head."""
        batch, count, length, channels = keras.ops.shape(windows)
        depth = channels // (3 * self.heads)
        heads = keras.ops.reshape(windows, (batch, count, length, 3, self.heads, depth))
        query, key, value = (heads[:, :, :, index] for index in range(3))
        # In half precision a product over many channels may overflow: scale before it, and sum up the softmax wide.
        logits = keras.ops.einsum("bnqhd,bnkhd->bnhqk", query * depth**-0.5, key)
        logits = keras.ops.cast(logits, "float32") + keras.ops.cast(self._spread_bias(), "float32")
        together = regions[..., 0][:, :, None, :, None] == regions[..., 0][:, :, None, None, :]
        weights = keras.ops.softmax(keras.ops.where(together, logits, _APART), axis=-1)
        attended = keras.ops.einsum("bnhqk,bnkhd->bnqhd", keras.ops.cast(weights, value.dtype), value)
        return keras.ops.reshape(attended, (batch, count, length, channels // 3))

    def _spread_bias(self) -> Array:
        """Bias of each pair of tokens in a window, `(heads, tokens, tokens)`."""
        places = np.moveaxis(np.indices(self.window), 0, -1).reshape(-1, len(self.window))
        offsets = places[:, None] - places[None] + np.array(self.window) - 1
        index = np.ravel_multi_index(tuple(np.moveaxis(offsets, -1, 0)), tuple(2 * size - 1 for size in self.window))
        bias = keras.ops.take(self.bias, index.astype("int32"), axis=0)
        return keras.ops.transpose(bias, (2, 0, 1))


@keras.saving.register_keras_serializable(package="keramorph")
class MergePatches(SpatialLayer):
    """Layer that returns half of the tokens along each axis, each with the channels of all that it stands for.

    Called with tokens `(batch, *spatial, channels)` of even sizes; the output is
    `(batch, *spatial / 2, 2**ndim * channels)`. No weights.

    Args:
        data_format: `"channels_last"` or `"channels_first"`; by default that of `keras.config.image_data_format()`.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        ShapeError: If a size is odd.
    """

    takes = ("tokens",)

    def transform(self, tokens: Array) -> Array:
        """Merged tokens, channels last."""
        batch, *sizes, channels = keras.ops.shape(tokens)
        ndim = len(sizes)
        halves = [size // 2 for size in sizes]
        split = [part for half in halves for part in (half, 2)]
        tokens = keras.ops.reshape(tokens, (batch, *split, channels))
        tokens = keras.ops.transpose(tokens, (0, *range(1, 2 * ndim, 2), *range(2, 2 * ndim + 1, 2), 2 * ndim + 1))
        return keras.ops.reshape(tokens, (batch, *halves, 2**ndim * channels))

    def infer_shape(self, tokens: Shape) -> Shape:
        """Shape of the merged tokens."""
        ndim = self.require_axes(0, tokens)
        if any(size is not None and size % 2 for size in tokens[1:-1]):
            self.refuse("even sizes", tokens, remedy="Pad with PadToMultiple(2).")
        channels = None if tokens[-1] is None else 2**ndim * tokens[-1]
        return (tokens[0], *(None if size is None else size // 2 for size in tokens[1:-1]), channels)
