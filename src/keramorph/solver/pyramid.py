"""Images on grids of coarser and coarser spacing, isotropic in millimetres."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from keramorph import backend, ops
from keramorph._typing import Array
from keramorph.preparation.grids import finest_spacing
from keramorph.space import Grid

_CLOSE = 1.01
"""An axis this near to the spacing of a level is left as it is."""

_BLUR = 0.5
"""Standard deviation of the Gaussian before a grid is coarsened, in voxels of the coarser one: no patterns arise."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One image at one level.

    Args:
        values: `(1, *grid.shape, channels)`.
        mask: Weight of each voxel in [0, 1], `(1, *grid.shape, channels)`, or one channel that holds for all of them;
            None where all count.
        grid: Where the voxels lie.
    """

    values: Array
    mask: Array | None
    grid: Grid


class Landmarks(NamedTuple):
    """Points `(points, ndim)` of the fixed image, and where they lie in the moving image, in millimetres."""

    fixed: np.ndarray
    moving: np.ndarray


class Hints(NamedTuple):
    """What is known of a pair beside its images, at one level: landmarks and labels, and how much each counts.

    The labels of both images are one channel each, `(1, *grid.shape, labels)`.
    """

    landmarks: Landmarks | None = None
    labels: tuple[Layer, Layer] | None = None
    landmark_weight: float = 0.0
    label_weight: float = 0.0


@dataclass(frozen=True, eq=False)
class Level:
    """Both images at one spacing, in millimetres, and what is known beside them.

    Args:
        fixed: Fixed image.
        moving: Moving image.
        spacing: That of both in millimetres.
        hints: What is known beside them.
        coarser: The level on whose fixed grid the displacement stays; None where it has a vector for each voxel.
    """

    fixed: Layer
    moving: Layer
    spacing: float
    hints: Hints | None = None
    coarser: Level | None = None

    @property
    def bearer(self) -> Level:
        """The level whose fixed grid the displacement lies on."""
        return self if self.coarser is None else self.coarser

    @property
    def field_grid(self) -> Grid:
        """Where the displacement lies."""
        return self.bearer.fixed.grid

    def still(self) -> Array:
        """Displacement of zero, `(1, *spatial, ndim)`, on its grid."""
        shape = self.field_grid.shape
        xp = backend.of(self.fixed.values).xp
        return xp.zeros((1, *shape, len(shape)), dtype="float32", like=self.fixed.values)


def coarsen_grid(grid: Grid, spacing: float) -> Grid:
    """Return the grid with each axis that is finer than `spacing` millimetres brought to it, the field of view kept."""
    shape = tuple(
        max(1, round(n * h / spacing)) if h * _CLOSE < spacing else n
        for n, h in zip(grid.shape, grid.spacing.tolist(), strict=True)
    )
    return grid if shape == grid.shape else grid.resize(shape)


def list_spacings(grid: Grid, *, smallest: float, most: int) -> list[float]:
    """Spacings of the levels, coarse to fine: doubled while `smallest` voxels remain on the longest axis."""
    finest = finest_spacing(grid)
    extent = float(max(np.asarray(grid.shape) * grid.spacing))
    count = 1 + max(0, math.floor(math.log2(max(1.0, extent / (finest * smallest)))))
    return [finest * 2.0**k for k in range(min(count, most) - 1, -1, -1)]


def build_pyramid(layer: Layer, spacings: Sequence[float]) -> list[Layer]:
    """Return the layer at each of the spacings, which are in millimetres and go from coarse to fine."""
    layers: list[Layer] = []
    for spacing in reversed(spacings):
        layer = coarsen(layer, spacing)
        layers.append(layer)
    return layers[::-1]


def coarsen(layer: Layer, spacing: float, *, blur: float = _BLUR) -> Layer:
    """Return a layer smoothed and resized to a spacing in millimetres; itself where it is as coarse already.

    `blur` is the standard deviation of the Gaussian in voxels of a much coarser grid.
    """
    grid = coarsen_grid(layer.grid, spacing)
    if grid is layer.grid:
        return layer
    factors = np.asarray(layer.grid.shape) / np.asarray(grid.shape)
    sigma = (blur * np.sqrt(np.maximum(factors**2 - 1, 0))).tolist()
    if layer.mask is None:
        return Layer(_shrink(layer.values, sigma, grid), None, grid)
    # Missing values take the mean of the known ones around them.
    mask = _shrink(layer.mask, sigma, grid)
    values = _shrink(layer.values * layer.mask, sigma, grid)
    return Layer(values / (mask + 1e-6), mask, grid)


def _shrink(array: Array, sigma: list[float], grid: Grid) -> Array:
    return ops.resize_image(backend.of(array).gaussian(array, sigma=sigma), shape=grid.shape)


def window_size(length: float, grid: Grid) -> tuple[int, ...]:
    """Odd numbers of voxels, one per axis, nearest to a length in millimetres."""
    return tuple(1 if n == 1 else max(1, 2 * round((length / h - 1) / 2) + 1) for n, h in _axes(grid))


def smoothing_width(length: float, grid: Grid) -> tuple[float, ...]:
    """Standard deviations in voxels, one per axis, of a Gaussian of a width in millimetres."""
    return tuple(0.0 if n == 1 else length / h for n, h in _axes(grid))


def _axes(grid: Grid) -> list[tuple[int, float]]:
    return list(zip(grid.shape, grid.spacing.tolist(), strict=True))
