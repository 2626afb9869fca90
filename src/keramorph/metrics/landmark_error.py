"""Distances between corresponding points."""

import numpy as np

from keramorph._typing import Array
from keramorph.errors import ShapeError


def landmark_error(fixed_points: Array, moved_points: Array) -> np.ndarray:
    """Return how far each point is from its counterpart, in millimetres: the mean is the target registration error.

    Args:
        fixed_points: Points `(points, ndim)` in millimetres.
        moved_points: Where the registration takes the other image's points to, in the same frame and order.

    Returns:
        Distances `(points,)` in millimetres, float64.

    Raises:
        ShapeError: If the two do not have one shape `(points, ndim)`.

    Example:
        >>> landmark_error([[0.0, 0.0], [10.0, 0.0]], [[3.0, 4.0], [10.0, 1.0]]).mean()
        np.float64(3.0)
    """
    fixed, moved = np.asarray(fixed_points, dtype=np.float64), np.asarray(moved_points, dtype=np.float64)
    if fixed.shape != moved.shape or fixed.ndim != 2:
        raise ShapeError(
            "Landmarks are two lists of as many points, (points, ndim). Received: "
            f"fixed_points.shape={fixed.shape}, moved_points.shape={moved.shape}. Drop the points without counterpart."
        )
    return np.linalg.norm(moved - fixed, axis=1)
