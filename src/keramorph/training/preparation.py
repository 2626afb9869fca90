"""One file to one array on the grid that all images of a training share: resampled, scaled, or as labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keramorph import ops
from keramorph.errors import FileError, InputError, OptionError
from keramorph.io import read_image
from keramorph.space import Grid, Image
from keramorph.transforms import AffineTransform
from keramorph.transforms.transform import Transform

_PERCENTILES = (0.5, 99.5)
_FWHM = math.sqrt(8 * math.log(2))
"""Full width at half maximum of a Gaussian of standard deviation 1."""


@dataclass(frozen=True)
class PairOptions:
    """How the images of a `PairDataset` are brought onto one grid, and how they vary from epoch to epoch.

    The axes of the grid are the physical ones, the last array axis along x: (y, x) in 2-D and (z, y, x) in 3-D, LPS.
    Its middle is laid on the middle of the field of view of each image by itself.

    Args:
        shape: Voxels of the grid along each array axis.
        spacing: Millimetres between them along each array axis, or one for all.
        labels: Values of the label maps that get a channel, in the order of the channels; others are background. Needed
            where pairs have label maps.
        crop: Sizes of a window of the grid, drawn anew for each pair and epoch and cut out of all its images; None for
            the whole grid.
        flip: Array axes along which a pair is mirrored half of the times, all its images alike.

    Raises:
        OptionError: If an option cannot take its value.

    Example:
        >>> PairOptions((64, 64), spacing=2.0).spacing
        (2.0, 2.0)
    """

    shape: tuple[int, ...]
    spacing: float | tuple[float, ...] = 1.0
    labels: tuple[int, ...] = ()
    crop: tuple[int, ...] | None = None
    flip: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        shape, ndim = _to_whole(self.shape), len(tuple(self.shape))
        if ndim not in (2, 3) or min(shape) < 1:
            raise OptionError(
                f"`shape` holds 2 or 3 sizes of at least 1. Received: shape={self.shape!r}. Count the voxels."
            )
        given = np.asarray(self.spacing, dtype=np.float64)
        if given.shape not in ((), (ndim,)) or not (np.isfinite(given).all() and (given > 0).all()):
            raise OptionError(
                f"`spacing` is a positive number of millimetres, one for all axes or {ndim} of them. Received: "
                f"spacing={self.spacing!r}. Give the lengths in the order of the array's axes."
            )
        crop = None if self.crop is None else _to_whole(self.crop)
        if crop is not None and (len(crop) != ndim or any(not 1 <= c <= n for c, n in zip(crop, shape, strict=True))):
            raise OptionError(
                f"A window fits into the grid, with {ndim} sizes. Received: crop={self.crop!r}, shape={shape}. Make it "
                "smaller, or the grid larger."
            )
        if any(axis not in range(ndim) for axis in self.flip):
            raise OptionError(
                f"Array axes count from 0 to {ndim - 1}. Received: flip={self.flip!r}. Take (2,) for x in 3-D."
            )
        labels = _to_whole(self.labels)
        if len(set(labels)) != len(labels) or 0 in labels or len(labels) > 255:
            raise OptionError(
                f"`labels` holds up to 255 different values, without 0, the background. Received: "
                f"labels={self.labels!r}. Leave 0 out."
            )
        steps = tuple(np.broadcast_to(given, (ndim,)).tolist())
        settled = {"shape": shape, "spacing": steps, "labels": labels, "crop": crop, "flip": _to_whole(self.flip)}
        for name, value in settled.items():
            object.__setattr__(self, name, value)


def _to_whole(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def read_on_grid_of(path: str | Path, options: PairOptions) -> tuple[Image, Grid]:
    """Return the image of a file, and the common grid laid on the middle of its field of view."""
    image = read_image(path)
    ndim = len(options.shape)
    if image.grid.ndim != ndim:
        raise FileError(
            f"All images have the axes of the common grid, {ndim}. Received: path={str(path)!r} of shape "
            f"{image.grid.shape}, options.shape={options.shape}. Take the file away, or change the shape."
        )
    corner = Grid.from_spacing(options.shape, options.spacing)
    grid = Grid.from_spacing(options.shape, options.spacing, origin=image.grid.center - corner.center)
    return image, grid


def prepare_image(image: Image, grid: Grid, *, name: str, transform: Transform | None = None) -> np.ndarray:
    """Return an image on a grid, its intensities scaled to [0, 1], `(*grid.shape, channels)` float32.

    The percentiles are those of the image's own voxels, so that no padding counts. An image with finer voxels than the
    grid is smoothed first by the Gaussian that makes its resolution that of the grid. What lies outside is 0.

    Args:
        image: The image on its own grid.
        grid: The common grid.
        name: What the image is called in an error.
        transform: From points of the grid to points of the image; None where they are the same.

    References:
        Cardoso et al., "Scale factor point spread function matching: beyond aliasing in image resampling", 2015,
        doi:10.1007/978-3-319-24571-3_81.
    """
    values = image.array.astype(np.float32)
    finite = np.isfinite(values)
    known = values[finite]
    low, high = np.percentile(known, _PERCENTILES)
    if not high > low:  # most of it is one value: a mask, for one
        low, high = known.min(), known.max()
    if not high > low:
        raise InputError(
            f"An image needs contrast to be registered. Received: path={name!r}, the same value {low:g} everywhere. "
            "Check that it is the right file."
        )
    scaled = np.where(finite, np.clip((values - low) / (high - low), 0, 1), 0).astype(np.float32)
    sigma = _measure_blur(image.grid, grid)
    if max(sigma) > 0:
        scaled = ops.gaussian(scaled[None], sigma=sigma)[0]
    return _resample(Image(scaled, image.grid), grid, transform, order=1)


def prepare_labels(
    image: Image, grid: Grid, labels: Sequence[int], *, name: str, transform: Transform | None = None
) -> np.ndarray:
    """Return the channel of each voxel's label counted from 1, and 0 for background, `(*grid.shape, 1)` uint8.

    Args:
        image: The label map on its own grid.
        grid: The common grid.
        labels: Values in the order of their channels.
        name: What the map is called in an error.
        transform: From points of the grid to points of the map; None where they are the same.
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
    return _resample(Image(channel, image.grid), grid, transform, order=0)


def _resample(image: Image, grid: Grid, transform: Transform | None, *, order: int) -> np.ndarray:
    if transform is None:
        transform = AffineTransform(np.eye(grid.ndim + 1))
    return transform.resample(image, grid, order=order).array  # type: ignore[arg-type]


def _measure_blur(source: Grid, target: Grid) -> list[float]:
    """Standard deviations, in voxels of an image along its axes, that bring its resolution down to that of a grid."""
    directions = source.matrix / source.spacing
    # How wide a voxel of the target is along each axis of the source, its box taken for an ellipsoid.
    widths = np.linalg.norm(
        np.linalg.inv(target.matrix / target.spacing) @ directions * target.spacing[:, None], axis=0
    )
    return (np.sqrt(np.maximum((widths / source.spacing) ** 2 - 1, 0)) / _FWHM).tolist()
