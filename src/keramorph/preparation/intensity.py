"""Intensities from 0 to 1, by robust percentiles, and what is missing known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from keramorph.errors import InputError
from keramorph.space import Image

_TAIL = 0.5
"""Percentage of values cut off at either end."""

_FREQUENT = 0.002
"""Share of voxels above which the lowest value is taken for a background or a padding."""


class Scaled(NamedTuple):
    """One channel `(1, *spatial, 1)` of float32 in [0, 1], and a mask of the same shape, None where all is valid."""

    values: np.ndarray
    mask: np.ndarray | None


class Span(NamedTuple):
    """Lowest and highest value of an image that count."""

    low: float
    high: float


def measure_span(image: Image, *, name: str, where: np.ndarray | None = None) -> Span:
    """Return the lowest and the highest value of the mean of an image's channels, by robust percentiles.

    Args:
        image: Any real data type, any number of channels.
        name: What the image is called in an error.
        where: Which voxels count, `(*spatial)`; None for all.

    Raises:
        InputError: If no value that counts is finite, or all are equal.
    """
    values, there = _read_values(image, where)
    return measure_range(values, there, name)


def scale_intensity(image: Image, *, name: str, where: np.ndarray | None = None, span: Span | None = None) -> Scaled:
    """Return the mean of an image's channels, scaled to [0, 1] by robust percentiles.

    A lowest value that many voxels share (the background of a stripped brain, the -2048 outside a CT scanner's circle)
    does not take part in the percentiles, so that a padding far below all else costs the image no contrast. Values
    that are not finite, and those that do not count, are missing: they are masked out, and take the value of the
    nearest one that is there, so that no edge arises where none is known.

    Args:
        image: Any real data type, any number of channels.
        name: What the image is called in an error.
        where: Which voxels count, `(*spatial)`; None for all.
        span: Values that become 0 and 1; None for those of the image itself.

    Returns:
        Values and mask.

    Raises:
        InputError: If no value that counts is finite, or all are equal.
    """
    values, there = _read_values(image, where)
    low, high = measure_range(values, there, name) if span is None else span
    mask = None
    if not there.all():
        from scipy.ndimage import distance_transform_edt  # 0.1 s that most images need not wait for

        mask = there.astype(np.float32)[None, ..., None]
        values = values[tuple(distance_transform_edt(~there, return_distances=False, return_indices=True))]
    values -= low
    values /= high - low
    return Scaled(np.clip(values, 0, 1, out=values)[None, ..., None], mask)


def _read_values(image: Image, where: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the channels, in an array of its own, and which values count."""
    values = (
        image.array.mean(axis=-1, dtype=np.float32) if image.channels > 1 else image.array[..., 0].astype(np.float32)
    )
    there = np.isfinite(values)
    if where is not None:
        there &= where
    return values, there


def measure_range(values: np.ndarray, there: np.ndarray, name: str) -> Span:
    """Return the lowest and the highest of some values that count, by robust percentiles.

    Args:
        values: Floating values of any shape.
        there: Which of them count.
        name: What the image is called in an error.

    Raises:
        InputError: If none counts, or all are equal.
    """
    known = values if there.all() else values[there]
    if known.size == 0:
        raise InputError(
            f"The {name} needs at least one finite value that counts. Received: {values.size} values, all NaN, "
            "infinite or masked out. Check how the file, and the mask if there is one, was made."
        )
    low, high = _find_range(known)
    if not high > low:
        raise InputError(
            f"The {name} needs contrast to be registered. Received: the same value {low:g} nearly everywhere. "
            "Check that the right file, and the right channel, was given."
        )
    return Span(low, high)


def _find_range(values: np.ndarray) -> tuple[float, float]:
    """Lowest and highest value that count."""
    lowest, highest = float(values.min()), float(values.max())
    above = values > lowest
    padded = above.any() and values.size - np.count_nonzero(above) > _FREQUENT * values.size
    # What is picked out is a copy already, which may be put into another order.
    low, high = np.percentile(values[above] if padded else values, [_TAIL, 100 - _TAIL], overwrite_input=bool(padded))
    # An image of few values, a mask for one: the percentiles fall together.
    return (float(low), float(high)) if high > low else (lowest, highest)
