"""What similarities need of a pair of images: equal shapes, float32 or better, intensities on one scale."""

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import ShapeError

ops = keras.ops

_RELATIVE_FLOOR = 1e-12
"""Variance over mean square below which an image counts as constant: warping one in float32 leaves 1e-15 to 1e-14."""


def promote(array: Array) -> Array:
    """Return the array in float32 or better: sums of half-precision squares overflow at 65504."""
    array = ops.convert_to_tensor(array)
    # Not `keras.backend.result_type`: on JAX and torch it makes float32 of float64.
    return array if keras.backend.standardize_dtype(array.dtype) == "float64" else ops.cast(array, "float32")


def prepare_pair(fixed: Array, moved: Array) -> tuple[Array, Array]:
    """Return both images `(batch, *spatial, channels)` in float32 or better, once their shapes are known to agree."""
    fixed, moved = promote(fixed), promote(moved)
    sizes = list(zip(fixed.shape, moved.shape, strict=False))
    clash = any(a != b for a, b in sizes if a is not None and b is not None)
    if len(fixed.shape) != len(moved.shape) or len(moved.shape) < 3 or clash:
        raise ShapeError(
            "A similarity compares two images of one shape (batch, *spatial, channels). Received: "
            f"y_true.shape={tuple(fixed.shape)}, y_pred.shape={tuple(moved.shape)}. "
            "Resample one onto the grid of the other, and add a channel axis with `[..., None]` where there is none."
        )
    return fixed, moved


def spatial_axes(image: Array) -> tuple[int, ...]:
    """Axes of `(batch, *spatial, channels)` that are spatial."""
    return tuple(range(1, len(image.shape) - 1))


def average(values: Array, *, axis: tuple[int, ...], keepdims: bool = False) -> Array:
    """Mean over some axes; zero where there is nothing to average. `keras.ops.mean` makes float32 of float64 on JAX."""
    sizes = ops.shape(values)
    count = ops.cast(1, values.dtype)
    for one in axis:
        count = count * ops.cast(sizes[one], values.dtype)
    return ops.sum(values, axis=axis, keepdims=keepdims) / ops.where(count > 0, count, ops.ones_like(count))


def average_per_sample(values: Array) -> Array:
    """Mean over all axes but the first, `(batch,)`."""
    return average(values, axis=tuple(range(1, len(values.shape))))


def standardize(image: Array) -> Array:
    """Return the image with mean 0 and variance 1 in each sample and channel; a constant image becomes 0.

    Local moments computed on the result lose no digits to a large offset, and a floor under a local variance means the
    same for every intensity unit.
    """
    axes = spatial_axes(image)
    # Relative to one of its own voxels a constant image is exactly 0. Its mean is not exactly the constant on JAX, and
    # a small contrast on a large offset drowns in that.
    first = ops.stop_gradient(image[(slice(None), *[slice(0, 1)] * len(axes))])
    shifted = image - first
    mean = average(shifted, axis=axes, keepdims=True)
    centred = shifted - mean
    variance = average(ops.square(centred), axis=axes, keepdims=True)
    varies = variance > _RELATIVE_FLOOR * ops.square(first + mean)
    scale = ops.rsqrt(ops.where(varies, variance, ops.ones_like(variance)))
    return centred * ops.where(varies, scale, ops.zeros_like(scale))
