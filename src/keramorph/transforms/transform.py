"""What every physical-space transform can do: move points, give its displacement on a grid, resample an image."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from keramorph import backend
from keramorph._typing import Boundary, Order
from keramorph.backend.blocks import run_blocks
from keramorph.backend.portable import cast_like
from keramorph.errors import OptionError, ShapeError
from keramorph.space import Grid, Image


class Transform(ABC):
    """A map from points of the fixed image to points of the moving image, in millimetres (LPS).

    Pull: the value of a resampled image at a fixed point x is the moving image's value at `apply_points(x)`.

    Example:
        >>> from keramorph.transforms import AffineTransform
        >>> isinstance(AffineTransform(np.eye(3)), Transform)
        True
    """

    @property
    @abstractmethod
    def ndim(self) -> int:
        """Number of spatial axes."""

    @abstractmethod
    def inverse(self) -> Transform:
        """Return the transform that takes moving points back to fixed points."""

    @abstractmethod
    def _apply(self, points: np.ndarray) -> np.ndarray:
        """Move float64 points `(..., ndim)` whose shape has been checked."""

    def apply_points(self, points: Any) -> np.ndarray:
        """Return where fixed points lie in the moving image.

        Args:
            points: Points `(..., ndim)` in millimetres (x, y, z), LPS.

        Returns:
            Points `(..., ndim)` in millimetres, float64.

        Raises:
            ShapeError: If the last axis does not have one entry per spatial axis.

        Example:
            >>> from keramorph.transforms import AffineTransform
            >>> AffineTransform([[2, 0, 1], [0, 1, 0], [0, 0, 1]]).apply_points([[1.0, 5.0]]).tolist()
            [[3.0, 5.0]]
        """
        points = np.asarray(points, dtype=np.float64)
        if points.ndim == 0 or points.shape[-1] != self.ndim:
            raise ShapeError(
                f"Points need {self.ndim} coordinates (x, y, z) in their last axis. Received: "
                f"points.shape={points.shape}. Pass millimetres, one point per row."
            )
        return self._apply(points)

    def displacement_on(self, grid: Grid) -> np.ndarray:
        """Return how far each voxel of a grid is moved.

        Args:
            grid: Grid of fixed points.

        Returns:
            Displacement `(*grid.shape, ndim)` in millimetres (x, y, z), float64.

        Raises:
            ShapeError: If the grid has another number of axes.

        Example:
            >>> from keramorph.transforms import AffineTransform
            >>> shift = AffineTransform([[1, 0, 2], [0, 1, 3], [0, 0, 1]])
            >>> shift.displacement_on(Grid.from_spacing((5, 6)))[4, 5].tolist()
            [2.0, 3.0]
        """
        self._check_ndim(grid, "grid")
        displacement = np.empty((*grid.shape, self.ndim))

        def work(rows: slice) -> None:
            displacement[rows] = self._apply_grid(grid, rows) - grid_points(grid, rows)

        run_blocks(work, [(rows,) for rows in slabs(grid.shape)])
        return displacement

    def resample(
        self, image: Image, grid: Grid, *, order: Order = 1, boundary: Boundary = "constant", fill_value: float = 0.0
    ) -> Image:
        """Return a moving image as seen from a grid of fixed points.

        A point up to half a voxel outside the image still belongs to its outermost voxel, as in ITK; what lies further
        outside is `fill_value` where the boundary is `"constant"`.

        Args:
            image: The moving image, any real data type.
            grid: The fixed grid.
            order: Degree of the interpolating spline; 0 for labels.
            boundary: What lies outside the moving image.
            fill_value: Value outside, where the boundary is `"constant"`.

        Returns:
            The image on the fixed grid, in the moving image's data type; integers are rounded.

        Raises:
            ShapeError: If image, grid and transform do not have the same number of axes.
            OptionError: If the fill value does not fit the image's data type.

        Example:
            >>> from keramorph.transforms import AffineTransform
            >>> image = Image(np.arange(4.0).reshape(1, 4, 1), Grid.from_spacing((1, 4)))
            >>> AffineTransform([[1, 0, 1], [0, 1, 0], [0, 0, 1]]).resample(image, image.grid).array.ravel().tolist()
            [1.0, 2.0, 3.0, 0.0]
        """
        self._check_ndim(grid, "grid")
        self._check_ndim(image.grid, "image.grid")
        values = image.array.astype(np.uint8) if image.array.dtype == bool else image.array
        _check_fill(fill_value, values.dtype)
        # Read in double precision, like the points: brought there once and not slab by slab. Labels stay as they are.
        lifted = values if order == 0 else values.astype(np.float64)
        result = np.empty((*grid.shape, image.channels), dtype=values.dtype)

        def work(rows: slice) -> None:
            index = image.grid.to_index(self._apply_grid(grid, rows))
            result[rows] = cast_like(backend.use("numpy").xp, _sample(lifted, index, order, boundary), values)
            if boundary == "constant":
                result[rows][_outside(index, image.grid.shape)] = fill_value

        # A cubic spline's coefficients are those of the whole image: computed once, not slab by slab.
        run_blocks(work, [(rows,) for rows in ([slice(0, grid.shape[0])] if order == 3 else slabs(grid.shape))])
        return Image(result.astype(image.array.dtype, copy=False), grid)

    def _apply_grid(self, grid: Grid, rows: slice) -> np.ndarray:
        """Where the voxels in some rows of a grid are moved to, `(rows, ..., ndim)`."""
        return self._apply(grid_points(grid, rows))

    def _check_ndim(self, grid: Grid, name: str) -> None:
        if grid.ndim != self.ndim:
            raise ShapeError(
                f"A {self.ndim}-D transform needs {self.ndim}-D grids. Received: {name}.shape={grid.shape}. Use images "
                "with the same number of axes as those that were registered."
            )


def grid_points(grid: Grid, rows: slice) -> np.ndarray:
    """Physical points `(rows, ..., ndim)` of the voxels in some rows of a grid, float64."""
    points = np.broadcast_to(grid.affine[: grid.ndim, grid.ndim], (rows.stop - rows.start, *grid.shape[1:], grid.ndim))
    for axis, count in enumerate(grid.shape):
        index = np.arange(rows.start, rows.stop) if axis == 0 else np.arange(count)
        steps = index[:, None] * grid.matrix[:, axis]
        points = points + steps.reshape(-1, *[1] * (grid.ndim - 1 - axis), grid.ndim)
    return points


def slabs(shape: tuple[int, ...], voxels: int = 1 << 15) -> Iterator[slice]:
    """Blocks of rows of a grid with about so many voxels, whose points stay in the cache."""
    step = max(1, voxels // math.prod(shape[1:]))
    return (slice(first, min(first + step, shape[0])) for first in range(0, shape[0], step))


def _sample(array: np.ndarray, index: np.ndarray, order: Order, boundary: Boundary) -> np.ndarray:
    """Values `(*field, channels)` of an array `(*spatial, channels)` at continuous indices `(*field, ndim)`."""
    inside: Boundary = "nearest" if boundary == "constant" else boundary
    return backend.use("numpy").sample(array[None], index[None], order=order, boundary=inside)[0]


def _outside(index: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Which continuous indices lie in no voxel of a grid; NaN lies in none."""
    inside = (index >= -0.5) & (index < np.asarray(shape) - 0.5)
    return np.logical_not(np.all(inside, axis=-1))


def _check_fill(fill_value: float, dtype: np.dtype) -> None:
    if dtype.kind not in "iu":
        return
    limits = np.iinfo(dtype)
    if not limits.min <= fill_value <= limits.max or fill_value != int(fill_value):
        raise OptionError(
            f"The fill value must be one that the image can hold. Received: fill_value={fill_value} for {dtype} "
            "values. Pass a whole number in range, or convert the image to float32."
        )
