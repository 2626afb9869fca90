"""Images as networks take them: on a common grid, smoothed where that is coarser, in [0, 1]; or as labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from keramorph import ops
from keramorph._typing import Order
from keramorph.errors import InputError
from keramorph.preparation.intensity import measure_range
from keramorph.space import Grid, Image

_FWHM = math.sqrt(8 * math.log(2))
"""Full width at half maximum of a Gaussian of standard deviation 1."""


class Resampler(Protocol):
    """What lays an image on a grid: any `keramorph.transforms.Transform`, from points of the grid to its own."""

    def resample(self, image: Image, grid: Grid, *, order: Order) -> Image:
        """Return the image as seen from the grid, 0 outside."""


def prepare_image(image: Image, grid: Grid, transform: Resampler, *, name: str) -> np.ndarray:
    """Return an image on a grid, its intensities scaled to [0, 1], `(*grid.shape, channels)` float32.

    What becomes 0 and 1 is found by robust percentiles of the image's own voxels, as for the solver, for all channels
    together. An image with finer voxels than the grid is smoothed first by the Gaussian that makes its resolution that
    of the grid. What lies outside is 0.

    Args:
        image: The image on its own grid.
        grid: The common grid.
        transform: From points of the grid to points of the image.
        name: What the image is called in an error.

    Raises:
        InputError: If the image has no finite value, or no contrast.

    References:
        Cardoso et al., "Scale factor point spread function matching: beyond aliasing in image resampling", 2015,
        doi:10.1007/978-3-319-24571-3_81.
    """
    values = image.array.astype(np.float32)
    finite = np.isfinite(values)
    low, high = measure_range(values, finite, name)
    scaled = np.where(finite, np.clip((values - low) / (high - low), 0, 1), 0).astype(np.float32)
    sigma = _measure_blur(image.grid, grid)
    if max(sigma) > 0:
        scaled = ops.gaussian(scaled[None], sigma=sigma)[0]
    return transform.resample(Image(scaled, image.grid), grid, order=1).array


def prepare_labels(image: Image, grid: Grid, transform: Resampler, *, labels: Sequence[int], name: str) -> np.ndarray:
    """Return the channel of each voxel's label counted from 1, and 0 for background, `(*grid.shape, 1)` uint8.

    Args:
        image: The label map on its own grid.
        grid: The common grid.
        transform: From points of the grid to points of the map.
        labels: Values in the order of their channels.
        name: What the map is called in an error.
    """
    if image.channels != 1 or not np.array_equal(image.array, np.rint(image.array)):
        raise InputError(
            f"A label map has one channel of whole numbers. Received: path={name!r} with {image.channels} channels of "
            f"{image.array.dtype}. Name the file of the labels, not that of the image."
        )
    channel = np.zeros(image.array.shape, np.uint8)
    for number, label in enumerate(labels, start=1):
        channel[image.array == label] = number
    if not channel.any():
        raise InputError(
            f"A label map holds at least one of the labels. Received: path={name!r}, labels={tuple(labels)}. Check the "
            "values in it."
        )
    return transform.resample(Image(channel, image.grid), grid, order=0).array


def _measure_blur(source: Grid, target: Grid) -> list[float]:
    """Standard deviations, in voxels of an image along its axes, that bring its resolution down to that of a grid."""
    directions = source.matrix / source.spacing
    # How wide a voxel of the target is along each axis of the source, its box taken for an ellipsoid.
    widths = np.linalg.norm(
        np.linalg.inv(target.matrix / target.spacing) @ directions * target.spacing[:, None], axis=0
    )
    return (np.sqrt(np.maximum((widths / source.spacing) ** 2 - 1, 0)) / _FWHM).tolist()
