"""What a registration is given: images, masks, landmarks and labels, read, checked and laid out for the solver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keramorph import backend
from keramorph._typing import Array
from keramorph.errors import ArrayTypeError, InputError, OptionError, ShapeError
from keramorph.io import read_image
from keramorph.preparation import finest_spacing
from keramorph.preparation.intensity import Scaled, Span, measure_span, scale_intensity
from keramorph.solver.config import Channels
from keramorph.solver.hints import Known
from keramorph.solver.mapping import to_engine
from keramorph.solver.pyramid import Landmarks, Layer
from keramorph.solver.run import Initial
from keramorph.space import Grid, Image
from keramorph.transforms import (
    AffineTransform,
    CompositeTransform,
    Transform,
    read_transform,
    to_voxel_displacement,
)

_SIDES = ("fixed", "moving")

_STRAIGHT = 1e-3
_PROBES = 9
"""Spacings by which a transform may differ from an affine map and count as one; points along each axis to find that."""


@dataclass(frozen=True, eq=False)
class Scan:
    """An image with what is known of it, which both images of a pair must have.

    Args:
        image: Anything that `register` takes; or a list of such, images of one body in one place.
        landmarks: Points `(points, ndim)` in millimetres (x, y, z), LPS, in the order of the other image's.
        labels: Map of whole numbers on the grid of the image, the first of several, 0 for none: anything that
            `register` takes. Of both maps the labels that they share count.

    Example:
        >>> Scan(np.eye(8), landmarks=[[1.0, 2.0]]).labels is None
        True
    """

    image: Any
    landmarks: Any = None
    labels: Any = None


@dataclass(frozen=True, eq=False)
class Channel:
    """One image of a side, or a channel of one, on the grid of the first image.

    Args:
        image: Its values; where there are several channels, their mean counts.
        where: Which voxels count, `(*spatial)`; None for all.
        name: What it is called in an error.
    """

    image: Image
    where: np.ndarray | None
    name: str


def read_images(scans: tuple[Scan, ...]) -> list[list[Image]]:
    """Return the images of either side, in their own grids.

    Raises:
        OptionError: If one side has more images than the other, or none.
        ShapeError: If some are 2-D and some 3-D.
    """
    given = [list(scan.image) if isinstance(scan.image, list | tuple) else [scan.image] for scan in scans]
    counts = [len(sources) for sources in given]
    if counts[0] != counts[1] or not counts[0]:
        raise OptionError(
            f"Each fixed image is compared with the moving image of the same number in the list. Received: {counts[0]} "
            f"fixed and {counts[1]} moving images. Leave out those that only one side has."
        )
    images = [[read_image(source) for source in sources] for sources in given]
    fixed, moving = (side[0].grid for side in images)
    if fixed.ndim != moving.ndim:
        raise ShapeError(
            f"Fixed and moving image must have the same number of axes. Received: fixed of shape {fixed.shape}, "
            f"moving of shape {moving.shape}. Pick one slice of the larger one, or compare two volumes."
        )
    for side, name in zip(images, _SIDES, strict=True):
        odd = next((image.grid.shape for image in side if image.grid.ndim != fixed.ndim), None)
        if odd is not None:
            raise ShapeError(
                f"All {name} images must have the same number of axes. Received: shapes {side[0].grid.shape} and {odd}."
                " Pick one slice of the larger one, or take volumes alone."
            )
    return images


def list_channels(images: list[list[Image]], masks: tuple[Any, Any], channels: Channels) -> list[list[Channel]]:
    """Return what is compared of either side, on the grid of its first image.

    Args:
        images: Those of either side.
        masks: What counts of either side: None, a mask on the grid of the first image for all of them, or a list.
        channels: Whether the channels of an image count by themselves.

    Raises:
        ShapeError: If a mask does not fit its image, or images have unlike numbers of channels that count.
        OptionError: If there is not one mask for each image.
        InputError: If an image lies elsewhere than the first.
    """
    counts = [[image.channels for image in side] for side in images]
    if channels == "each" and counts[0] != counts[1]:
        raise ShapeError(
            "Images need as many channels as those that they are compared with, one by one. Received: fixed images of "
            f'{counts[0]} and moving images of {counts[1]} channels. Compare their means, `channels="mean"`, or leave '
            "some out."
        )
    laid = [_lay_out(*side) for side in zip(images, masks, _SIDES, strict=True)]
    if channels == "mean":
        return laid
    return [[channel for given in side for channel in _split(given)] for side in laid]


def to_layers(sides: list[list[Channel]], like: Any, *, together: bool) -> tuple[Layer, Layer]:
    """Return both sides as the solver takes them, in the arrays of the engine of `like`.

    Args:
        sides: The channels of either side.
        like: An array of the engine.
        together: Whether two channels that are compared keep one unit.

    Raises:
        InputError: If a channel has no contrast or no finite value that counts.
    """
    pairs = [_scale(pair, together=together) for pair in zip(*sides, strict=True)]
    fixed, moving = (_join([pair[k] for pair in pairs], sides[k][0].image.grid, like) for k in range(2))
    return fixed, moving


def read_known(scans: tuple[Scan, ...], images: tuple[Image, Image], like: Any) -> Known:
    """Return the landmarks and labels of both images, which are the first of either side.

    Raises:
        OptionError: If one side alone has them.
        ShapeError: If they do not fit.
    """
    return Known(_read_landmarks(scans, images[0].grid.ndim), _read_labels(scans, images, like))


def read_initial(initial: Any, grid: Grid, like: Any) -> Initial:
    """Return any transform, or the path of one, as the solver takes it: an affine map, and what that leaves of it.

    Raises:
        ArrayTypeError: If it is no transform.
    """
    transform = read_transform(initial) if isinstance(initial, str | Path) else initial
    if not isinstance(transform, Transform):
        raise ArrayTypeError(
            f"A search starts from a transform or from the path of one. Received: initial of type "
            f"{type(initial).__name__}. Wrap a matrix in `keramorph.transforms.AffineTransform`."
        )
    matrix = _fit_matrix(transform, grid)
    bend = CompositeTransform([transform, AffineTransform(matrix).inverse()]).displacement_on(grid)
    if np.abs(bend).max() < _STRAIGHT * finest_spacing(grid):
        return Initial(matrix)
    return Initial(matrix, to_engine(to_voxel_displacement(bend, grid)[None], like))


def _lay_out(images: list[Image], masks: Any, side: str) -> list[Channel]:
    """The images of a side on the grid of the first."""
    names = [f"{side} image", *(f"{side} image {number}" for number in range(2, len(images) + 1))]
    if not isinstance(masks, list | tuple):
        shared = None if masks is None else _read_mask(masks, images[0].grid, side)
        laid = [_lay(Channel(i, None, name), images[0].grid) for i, name in zip(images, names, strict=True)]
        return [Channel(one.image, shared, one.name) for one in laid]
    if len(masks) != len(images):
        raise OptionError(
            f"A list of masks holds one for each image, None where all of it counts. Received: {len(masks)} masks of "
            f"{len(images)} {side} images. A mask that is in no list counts for all of them."
        )
    return [
        _lay(Channel(i, None if mask is None else _read_mask(mask, i.grid, side), name), images[0].grid)
        for i, mask, name in zip(images, masks, names, strict=True)
    ]


def _lay(given: Channel, grid: Grid) -> Channel:
    """An image on another grid, NaN where it does not reach."""
    if given.image.grid.matches(grid):
        return given
    still = AffineTransform(np.eye(grid.ndim + 1))
    values = Image(given.image.array.astype(np.float32), given.image.grid)
    laid = still.resample(values, grid, fill_value=np.nan)
    if not np.isfinite(laid.array).any():
        raise InputError(
            f"The images of one side must show the same place. Received: a {given.name} that reaches no voxel of the "
            "first. Lay it on the first one before, by a registration of the two, or correct its header."
        )
    where = given.where
    if where is not None:
        drawn = Image(where[..., None].astype(np.uint8), given.image.grid)
        where = still.resample(drawn, grid, order=0).array[..., 0] > 0
    return Channel(laid, where, given.name)


def _split(given: Channel) -> list[Channel]:
    """The channels of an image, each by itself."""
    image = given.image
    if image.channels == 1:
        return [given]
    return [
        Channel(Image(image.array[..., k : k + 1], image.grid), given.where, f"{given.name}, channel {k + 1},")
        for k in range(image.channels)
    ]


def _scale(pair: tuple[Channel, Channel], *, together: bool) -> list[Scaled]:
    """Both of a pair in [0, 1], in one unit or each in its own."""
    span = None
    if together:
        spans = [measure_span(one.image, name=one.name, where=one.where) for one in pair]
        span = Span(min(each.low for each in spans), max(each.high for each in spans))
    return [scale_intensity(one.image, name=one.name, where=one.where, span=span) for one in pair]


def _join(channels: list[Scaled], grid: Grid, like: Array) -> Layer:
    """Channels of one image in one array; where one of them is masked all are, each by its own mask."""
    values = [to_engine(one.values, like) for one in channels]
    masks = [None if one.mask is None else to_engine(one.mask, like) for one in channels]
    xp = backend.of(like).xp
    if len(channels) == 1:
        return Layer(values[0], masks[0], grid)
    mask = None
    if any(one is not None for one in masks):
        full = [v * 0 + 1 if m is None else m for v, m in zip(values, masks, strict=True)]
        mask = xp.concatenate(full, axis=-1)
    return Layer(xp.concatenate(values, axis=-1), mask, grid)


def _read_mask(mask: Any, grid: Grid, name: str) -> np.ndarray:
    """Which voxels of an image count."""
    return np.any(_read_on_grid(mask, grid, f"{name} mask").array != 0, axis=-1)


def _read_on_grid(drawn: Any, grid: Grid, name: str) -> Image:
    """What was drawn on an image."""
    found = read_image(drawn)
    if found.grid.shape != grid.shape or (not isinstance(drawn, np.ndarray) and not found.grid.matches(grid)):
        raise ShapeError(
            f"A mask or label map needs the grid of its image. Received: a {name} of shape {found.grid.shape}, an "
            f"image of shape {grid.shape}, or one shape in two places. Resample it onto the image, or draw it there."
        )
    return found


def _read_landmarks(scans: tuple[Scan, ...], ndim: int) -> Landmarks | None:
    """Points of both images; None without any."""
    if not _have_both(scans, "landmarks"):
        return None
    fixed, moving = (np.asarray(scan.landmarks, dtype=np.float64) for scan in scans)
    if fixed.shape != moving.shape or fixed.ndim != 2 or fixed.shape[1] != ndim or not len(fixed):
        raise ShapeError(
            f"Landmarks are as many points (points, {ndim}) in one image as in the other. Received: fixed of shape "
            f"{fixed.shape}, moving of shape {moving.shape}. Leave out those that only one image has."
        )
    return Landmarks(fixed, moving)


def _read_labels(scans: tuple[Scan, ...], images: tuple[Image, Image], like: Any) -> tuple[Layer, Layer] | None:
    """Label maps of both images, numbers as values; None without any."""
    if not _have_both(scans, "labels"):
        return None
    fixed, moving = (
        _read_on_grid(scan.labels, image.grid, f"{name} label map").array[None, ..., :1]
        for scan, image, name in zip(scans, images, ("fixed", "moving"), strict=True)
    )
    return Layer(to_engine(fixed, like), None, images[0].grid), Layer(to_engine(moving, like), None, images[1].grid)


def _have_both(scans: tuple[Scan, ...], name: str) -> bool:
    given = [getattr(scan, name) is not None for scan in scans]
    if any(given) and not all(given):
        raise OptionError(
            f"What is known of one image must be known of the other. Received: {name} of the "
            f"{'fixed' if given[0] else 'moving'} image alone. Give those of both, or of none."
        )
    return all(given)


def _fit_matrix(transform: Transform, grid: Grid) -> np.ndarray:
    """The affine map that is nearest to a transform on a grid; along axes of one voxel it changes nothing."""
    ndim = grid.ndim
    lines = [np.linspace(0, n - 1, _PROBES) for n in grid.shape]
    points = grid.to_physical(np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, ndim))
    offset = points - grid.center
    change = transform.apply_points(points) - points
    shift = change.mean(axis=0)
    linear = np.linalg.lstsq(offset, change - shift, rcond=1e-9)[0].T
    matrix = np.eye(ndim + 1)
    matrix[:ndim, :ndim] += linear
    matrix[:ndim, ndim] = shift - linear @ grid.center
    return matrix
