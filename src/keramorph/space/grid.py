"""The physical grid of an image: how many voxels it has and where each of them lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from keramorph.errors import OptionError, ShapeError


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an image lie in physical space.

    Index 0 is the centre of the first voxel. Physical points are (x, y, z) in millimetres, LPS as in ITK and DICOM;
    indices follow the array's own axes, in the array's own order.

    Args:
        shape: Number of voxels along each array axis, `ndim` integers of at least 1.
        affine: Matrix `(ndim + 1, ndim + 1)`, float64, from homogeneous array indices to homogeneous physical points.
        fastest: Array axis that a file stores first, `"last"` as in SimpleITK's arrays or `"first"` as in nibabel's. It
            moves no voxel: it only lets an image be written in the order in which it was read.

    Raises:
        ShapeError: If the sizes do not fit, or the matrix cannot be inverted.
        OptionError: If `fastest` is something else.

    Example:
        >>> grid = Grid.from_spacing((5, 6, 7), (3.0, 2.0, 1.0))
        >>> grid.spacing.tolist()
        [3.0, 2.0, 1.0]
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    fastest: Literal["last", "first"] = "last"

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        affine = np.array(self.affine, dtype=np.float64)
        ndim = len(shape)
        if affine.shape != (ndim + 1, ndim + 1):
            raise ShapeError(
                f"A grid of {ndim} axes needs an affine of shape {(ndim + 1, ndim + 1)}. Received: "
                f"affine.shape={affine.shape}, shape={shape}. Pass one row and one column more than there are axes."
            )
        if min(shape, default=0) < 1:
            raise ShapeError(f"A grid needs at least one voxel along each axis. Received: shape={shape}.")
        if self.fastest not in ("last", "first"):
            raise OptionError(f'`fastest` is "last" or "first". Received: fastest={self.fastest!r}. Use "last".')
        if not _is_invertible(affine):
            raise ShapeError(
                f"The affine of a grid must be finite and invertible. Received: affine={affine.tolist()}. "
                "A spacing of zero, or two equal axis directions, is the usual cause."
            )
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @classmethod
    def from_spacing(
        cls, shape: Sequence[int], spacing: Sequence[float] | float = 1.0, *, origin: Sequence[float] | None = None
    ) -> Grid:
        """Return the grid of a plain array: the last array axis runs along x, as in `SimpleITK.GetImageFromArray`.

        Args:
            shape: Number of voxels along each array axis.
            spacing: Millimetres between voxel centres along each array axis, in the array's order; or one for all.
            origin: Physical point (x, y, z) of the first voxel, in millimetres.

        Returns:
            The grid, whose physical axes are the array's axes in reverse order.

        Example:
            >>> Grid.from_spacing((2, 3), 0.5).to_physical([[1, 2]]).tolist()
            [[1.0, 0.5]]
        """
        ndim = len(tuple(shape))
        steps = np.broadcast_to(np.asarray(spacing, dtype=np.float64), (ndim,))
        affine = np.eye(ndim + 1)
        affine[:ndim, :ndim] = np.diag(steps)[::-1]
        if origin is not None:
            affine[:ndim, ndim] = origin
        return cls(tuple(shape), affine)

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.shape)

    @property
    def matrix(self) -> np.ndarray:
        """Linear part `(ndim, ndim)`: takes a displacement in voxels to one in millimetres."""
        return self.affine[: self.ndim, : self.ndim]

    @property
    def spacing(self) -> np.ndarray:
        """Millimetres between voxel centres along each array axis, `(ndim,)`."""
        return np.linalg.norm(self.matrix, axis=0)

    @property
    def center(self) -> np.ndarray:
        """Physical point `(ndim,)` in the middle of the grid, in millimetres."""
        return self.to_physical((np.asarray(self.shape, dtype=np.float64) - 1) / 2)

    def to_physical(self, index: Any) -> np.ndarray:
        """Physical points `(..., ndim)` in millimetres of continuous indices `(..., ndim)`."""
        return np.asarray(index, dtype=np.float64) @ self.matrix.T + self.affine[: self.ndim, self.ndim]

    def to_index(self, point: Any) -> np.ndarray:
        """Continuous indices `(..., ndim)` of physical points `(..., ndim)` in millimetres."""
        return (np.asarray(point, dtype=np.float64) - self.affine[: self.ndim, self.ndim]) @ np.linalg.inv(
            self.matrix
        ).T

    def resize(self, shape: Sequence[int]) -> Grid:
        """Return a grid of another size over the same field of view, the outer faces of the voxels kept in place.

        Args:
            shape: Number of voxels along each array axis of the new grid.

        Returns:
            The grid whose voxels are larger or smaller by the ratio of the sizes, axis by axis.

        Example:
            >>> Grid.from_spacing((4, 4)).resize((2, 2)).spacing.tolist()
            [2.0, 2.0]
        """
        factor = np.asarray(self.shape, dtype=np.float64) / np.asarray(tuple(shape), dtype=np.float64)
        affine = self.affine.copy()
        affine[: self.ndim, : self.ndim] = self.matrix * factor
        affine[: self.ndim, self.ndim] = self.to_physical((factor - 1) / 2)
        return Grid(tuple(shape), affine, self.fastest)

    def matches(self, other: Grid, *, tolerance: float = 1e-4) -> bool:
        """Whether both grids have the same voxels: equal sizes, and corners within `tolerance` of a voxel."""
        if self.shape != other.shape:
            return False
        reach = np.abs(self.affine - other.affine)[: self.ndim] @ np.append(np.asarray(self.shape, dtype=float), 1.0)
        return bool(reach.max() <= tolerance * self.spacing.min())


def _is_invertible(affine: np.ndarray) -> bool:
    """Whether the axes of an affine are finite and span the space, whatever their lengths: micrometres are fine."""
    matrix = affine[:-1, :-1]
    lengths = np.linalg.norm(matrix, axis=0)
    if not np.isfinite(affine).all() or lengths.min() == 0:
        return False
    return bool(abs(np.linalg.det(matrix / lengths)) > 1e-9)
