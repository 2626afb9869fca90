"""What every physical-space transform can do: move points, give its displacement on a grid, resample an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from keramorph import backend
from keramorph._typing import Boundary, Order
from keramorph.backend.blocks import run_blocks
from keramorph.backend.portable import cast_like
from keramorph.errors import OptionError, ShapeError
from keramorph.space import Grid, Image
from keramorph.transforms.blocks import Block, cut_grid, find_ends, move_points, place_points, sample_points


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

        def work(*block: slice) -> None:
            moved = self._move(block, grid.affine, np.eye(self.ndim + 1))
            displacement[block] = moved - place_points(grid.affine, block)

        run_blocks(work, cut_grid(grid.shape))
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
        inside: Boundary = "nearest" if boundary == "constant" else boundary
        # What is not read part by part is brought to double precision, in which it is read, once and for all.
        read = values if order == 0 or (order, inside) == (1, "nearest") else values.astype(np.float64)
        to_index = np.linalg.inv(image.grid.affine)
        result = np.empty((*grid.shape, image.channels), dtype=values.dtype)

        def work(*block: slice) -> None:
            index = self._move(block, grid.affine, to_index)
            ends = find_ends(index)
            found = sample_points(read, index, ends, order=order, boundary=inside)
            result[block] = cast_like(backend.use("numpy").xp, found, values)
            if boundary == "constant" and _outside(ends, image.grid.shape).any():
                result[block][_outside(index, image.grid.shape)] = fill_value

        # A cubic spline's coefficients are those of the whole image: computed once, not block by block.
        whole = [tuple(slice(0, n) for n in grid.shape)]
        run_blocks(work, whole if order == 3 else cut_grid(grid.shape))
        return Image(result.astype(image.array.dtype, copy=False), grid)

    def _move(self, block: Block, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Where a matrix, this transform and another matrix take the voxels of a block, `(*block, ndim)`.

        Args:
            block: Slices of the voxels.
            before: Homogeneous matrix from voxels to fixed points.
            after: Homogeneous matrix from moving points to what is wanted.
        """
        return move_points(after, self._apply(place_points(before, block)))

    def _check_ndim(self, grid: Grid, name: str) -> None:
        if grid.ndim != self.ndim:
            raise ShapeError(
                f"A {self.ndim}-D transform needs {self.ndim}-D grids. Received: {name}.shape={grid.shape}. Use images "
                "with the same number of axes as those that were registered."
            )


def _outside(index: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Which continuous indices lie in no voxel of a grid; NaN lies in none."""
    inside = [(index[..., axis] >= -0.5) & (index[..., axis] < n - 0.5) for axis, n in enumerate(shape)]
    return np.logical_not(np.logical_and.reduce(inside))


def _check_fill(fill_value: float, dtype: np.dtype) -> None:
    if dtype.kind not in "iu":
        return
    limits = np.iinfo(dtype)
    if not limits.min <= fill_value <= limits.max or fill_value != int(fill_value):
        raise OptionError(
            f"The fill value must be one that the image can hold. Received: fill_value={fill_value} for {dtype} "
            "values. Pass a whole number in range, or convert the image to float32."
        )
