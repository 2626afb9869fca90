"""Affine transforms: a homogeneous matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from keramorph.errors import InputError, ShapeError
from keramorph.transforms.blocks import Block, place_points
from keramorph.transforms.transform import Transform


class AffineTransform(Transform):
    """A matrix that takes fixed points to moving points.

    Args:
        matrix: Homogeneous matrix `(ndim + 1, ndim + 1)` in millimetres (x, y, z), LPS; its last row is 0 ... 0 1.

    Raises:
        ShapeError: If the matrix is not square, or not of a 2-D or 3-D transform.
        InputError: If an entry is not finite, or the last row is another.

    Example:
        >>> AffineTransform([[1, 0, 2], [0, 1, 3], [0, 0, 1]]).inverse().apply_points([2, 3]).tolist()
        [0.0, 0.0]
    """

    def __init__(self, matrix: Any) -> None:
        matrix = np.array(matrix, dtype=np.float64)
        if matrix.shape not in ((3, 3), (4, 4)):
            raise ShapeError(
                f"An affine transform needs a homogeneous matrix (3, 3) in 2-D or (4, 4) in 3-D. Received: "
                f"matrix.shape={matrix.shape}. Add the row 0 ... 0 1."
            )
        if not np.isfinite(matrix).all() or np.abs(matrix[-1] - np.eye(len(matrix))[-1]).max() > 1e-9:
            raise InputError(
                "An affine transform needs finite entries and the last row 0 ... 0 1. Received: "
                f"matrix={matrix.tolist()}. Transpose the matrix if its translation stands in the last row."
            )
        matrix.setflags(write=False)
        self.matrix = matrix

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.matrix) - 1

    def inverse(self) -> AffineTransform:
        """Return the transform that takes moving points back to fixed points.

        Raises:
            InputError: If the matrix is singular.
        """
        try:
            return AffineTransform(np.vstack([np.linalg.inv(self.matrix)[:-1], self.matrix[-1:]]))
        except np.linalg.LinAlgError as problem:
            raise InputError(
                f"A singular transform has no inverse. Received: matrix={self.matrix.tolist()}. Check how it was made."
            ) from problem

    def _apply(self, points: np.ndarray) -> np.ndarray:
        return points @ self.matrix[:-1, :-1].T + self.matrix[:-1, -1]

    def _move(self, block: Block, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        return place_points(after @ self.matrix @ before, block)
