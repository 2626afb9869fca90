"""The terms of the loss of a registration: each a value `(batch,)` per sample, of tensors channels last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keramorph import ops as deformation
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import OptionError, ShapeError
from keramorph.losses import SoftDice, diffusion
from keramorph.losses.differences import Spacing, standardize_spacing
from keramorph.losses.images import average_per_sample, promote

ops = keras.ops

_LEAST_SQUARE = 1e-12
"""Added to squared distances: the square root has no derivative at 0."""


def measure_loss(loss: Any, y_true: Array, y_pred: Array) -> Array:
    """Return the values `(batch,)` of a Keras loss, which may be one per voxel, before its own reduction."""
    values = promote(loss.call(y_true, y_pred))
    return values if len(values.shape) == 1 else average_per_sample(values)


def measure_similarity(loss: Any, fixed: Array, moved: Array, scales: Sequence[int]) -> Array:
    """Return the mean of a similarity loss over images made smaller by each of the factors, `(batch,)`."""
    pairs = [(shrink(fixed, scale), shrink(moved, scale)) for scale in scales]
    return sum(measure_loss(loss, *pair) for pair in pairs) / len(pairs)


def shrink(image: Array, scale: int) -> Array:
    """Return the means over boxes of `scale` voxels: made smaller without aliasing. What fills no box is left out."""
    if scale == 1:
        return image
    sizes = tuple(image.shape[1:-1])
    if any(size is not None and size < scale for size in sizes):
        raise ShapeError(
            f"An image made smaller by {scale} needs at least as many voxels along each axis. Received: spatial shape "
            f"{sizes}. Leave the scale out."
        )
    return ops.average_pool(promote(image), scale, strides=scale, padding="valid", data_format="channels_last")


def encode_labels(labels: Array, num_labels: int | None) -> Array:
    """Return labels with one channel each, `(batch, *spatial, labels)` in float32, without the background."""
    labels = ops.convert_to_tensor(labels)
    if num_labels is not None:
        if labels.shape[-1] != 1:
            raise ShapeError(
                "With `num_labels`, label maps have one channel of integers, (batch, *spatial, 1). Received: labels of "
                f"shape {tuple(labels.shape)}. Leave `num_labels` out where each label has its own channel."
            )
        return ops.one_hot(ops.cast(labels[..., 0], "int32"), num_labels + 1, dtype="float32")[..., 1:]
    if labels.shape[-1] == 1 and "int" in keras.backend.standardize_dtype(labels.dtype):
        raise OptionError(
            "A map of integers needs the number of its labels. Received: labels of shape "
            f"{tuple(labels.shape)} and dtype {keras.backend.standardize_dtype(labels.dtype)}, num_labels=None. Give "
            "RegistrationOptions(num_labels=...), or labels with one channel each."
        )
    return ops.cast(labels, "float32")


def measure_labels(fixed: Array, moved: Array) -> Array:
    """Return 1 minus the soft Dice overlap of labels `(batch, *spatial, labels)`."""
    return SoftDice().call(fixed, moved)


def measure_distances(displacement: Array, x: dict[str, Array], spacing: Spacing) -> tuple[Array, Array]:
    """Return how far the landmarks are from each other, `(batch, points)`, and which are there, as 0 or 1.

    A landmark with a coordinate that is not a number in either image is missing: its distance is 0.
    """
    fixed, moving = (promote(x[f"{name}_landmarks"]) for name in ("fixed", "moving"))
    there = ops.all(ops.isfinite(fixed) & ops.isfinite(moving), axis=-1)
    # Before anything is computed of them: the gradient of a `where` is 0 times NaN otherwise.
    fixed, moving = (ops.where(there[..., None], points, ops.zeros_like(points)) for points in (fixed, moving))
    missed = deformation.warp_points(fixed, ops.cast(displacement, fixed.dtype)) - moving
    steps = standardize_spacing(spacing)
    if steps is not None:
        missed = missed * ops.convert_to_tensor(steps, dtype=missed.dtype)
    there = ops.cast(there, missed.dtype)
    return there * ops.sqrt(ops.sum(ops.square(missed), axis=-1) + _LEAST_SQUARE), there


def measure_landmarks(displacement: Array, x: dict[str, Array], spacing: Spacing) -> Array:
    """Return the mean distance of the landmarks that are there, `(batch,)`; 0 where none is."""
    distances, there = measure_distances(displacement, x, spacing)
    return ops.sum(distances, axis=-1) / ops.maximum(ops.sum(there, axis=-1), 1.0)


def measure_consistency(composed: Array) -> Array:
    """Return the mean squared length of a displacement, in squared voxels."""
    return average_per_sample(ops.sum(ops.square(composed), axis=-1))


def measure_gradicon(composed: Array) -> Array:
    """Return the squared derivatives of a displacement, added over components and axes."""
    return diffusion(composed)
