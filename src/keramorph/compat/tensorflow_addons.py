"""TensorFlow Addons' and `tf.contrib`'s image sampling, under the old names, on every backend."""

from __future__ import annotations

from keramorph import ops
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import ShapeError


def resampler(data: Array, warp: Array, name: str | None = None) -> Array:
    """Values of images at absolute (x, y) coordinates, as `tf.contrib.resampler.resampler` returned them.

    The old rule outside: the image goes on as zeros, and the values fade to them over one pixel beyond the edge.
    New code uses `keramorph.ops.sample`, which takes (row, column), any number of axes and any boundary.

    Args:
        data: Images `(batch, height, width, channels)`.
        warp: Coordinates `(batch, ..., 2)` in pixels: x, the column, then y, the row; 0 is the first pixel's centre.
        name: Kept for old calls; nothing is done with it.

    Returns:
        Values `(batch, ..., channels)` in the data type of `data`.

    Raises:
        ShapeError: If `data` has not four axes, or `warp` not two components.

    Example:
        >>> import numpy as np
        >>> data = np.arange(6.0, dtype="float32").reshape(1, 2, 3, 1)
        >>> warp = np.array([[[2.0, 1.0], [2.5, 1.0], [3.0, 1.0]]], dtype="float32")
        >>> keras.ops.convert_to_numpy(resampler(data, warp))[0, :, 0].tolist()
        [5.0, 2.5, 0.0]
    """
    data, warp = _as_tensor(data), _as_tensor(warp)
    if len(data.shape) != 4 or len(warp.shape) < 2 or warp.shape[-1] != 2:
        raise ShapeError(
            "resampler expects images (batch, height, width, channels) and coordinates (batch, ..., 2). Received: "
            f"data.shape={tuple(data.shape)}, warp.shape={tuple(warp.shape)}. 3-D images go to keramorph.ops.sample."
        )
    padded = keras.ops.pad(data, [[0, 0], [1, 1], [1, 1], [0, 0]])
    coordinates = keras.ops.flip(_at_least_float32(warp), axis=-1) + 1
    if len(warp.shape) == 2:
        return ops.sample(padded, coordinates[:, None])[:, 0]
    return ops.sample(padded, coordinates)


def dense_image_warp(image: Array, flow: Array, name: str | None = None) -> Array:
    """Images moved by the negative of a field, as `tfa.image.dense_image_warp` returned them.

    The old rule: `output[b, j, i] = image[b, j - flow[b, j, i, 0], i - flow[b, j, i, 1]]`, bilinear, the edge extended.
    New code uses `keramorph.ops.warp`, which adds the displacement and takes any number of axes.

    Args:
        image: Images `(batch, height, width, channels)`.
        flow: Field `(batch, height, width, 2)` in pixels, component 0 along the rows (y), 1 along the columns (x).
        name: Kept for old calls; nothing is done with it.

    Returns:
        Moved images `(batch, height, width, channels)` in the data type of `image`.

    Raises:
        ShapeError: If `image` has not four axes, or `flow` not its sizes and two components.

    Example:
        >>> import numpy as np
        >>> image = np.arange(4.0, dtype="float32").reshape(1, 1, 4, 1)
        >>> flow = np.zeros((1, 1, 4, 2), dtype="float32") + [0.0, 1.0]
        >>> keras.ops.convert_to_numpy(dense_image_warp(image, flow))[0, 0, :, 0].tolist()
        [0.0, 0.0, 1.0, 2.0]
    """
    image, flow = _as_tensor(image), _as_tensor(flow)
    if len(image.shape) != 4 or len(flow.shape) != 4 or flow.shape[-1] != 2:
        raise ShapeError(
            "dense_image_warp expects images (batch, height, width, channels) and fields (batch, height, width, 2). "
            f"Received: image.shape={tuple(image.shape)}, flow.shape={tuple(flow.shape)}. 3-D images go to "
            "keramorph.ops.warp."
        )
    return ops.warp(image, -_at_least_float32(flow))


def _as_tensor(array: Array) -> Array:
    return array if isinstance(array, keras.KerasTensor) else keras.ops.convert_to_tensor(array)


def _at_least_float32(array: Array) -> Array:
    """Coordinates as float32 at least: float16 counts in eighths of a pixel from 128 on."""
    dtype = keras.backend.standardize_dtype(array.dtype)
    return array if dtype == "float64" else keras.ops.cast(array, "float32")
