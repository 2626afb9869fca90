"""Sequences of transforms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keramorph.errors import InputError, ShapeError
from keramorph.transforms.affine import AffineTransform
from keramorph.transforms.blocks import Block, move_points
from keramorph.transforms.transform import Transform


class CompositeTransform(Transform):
    """Transforms applied one after the other.

    Args:
        transforms: The steps, the first one applied first to points.

    Raises:
        InputError: If there is no step.
        ShapeError: If the steps differ in their number of axes.

    Example:
        >>> from keramorph.transforms import AffineTransform
        >>> double, shift = AffineTransform(np.diag([2, 2, 1])), AffineTransform([[1, 0, 1], [0, 1, 0], [0, 0, 1]])
        >>> CompositeTransform([double, shift]).apply_points([1, 1]).tolist()
        [3.0, 2.0]
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = tuple(transforms)
        if not self.transforms:
            raise InputError("A composite needs at least one transform. Received: transforms=[]. Pass an identity.")
        if len({step.ndim for step in self.transforms}) > 1:
            raise ShapeError(
                "The steps of a composite must have the same number of axes. Received: "
                f"ndim={[step.ndim for step in self.transforms]}. Compose 2-D with 2-D, and 3-D with 3-D."
            )

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return self.transforms[0].ndim

    def inverse(self) -> CompositeTransform:
        """Return the transform that takes moving points back to fixed points: the inverse steps, last one first."""
        return CompositeTransform([step.inverse() for step in reversed(self.transforms)])

    def _apply(self, points: np.ndarray) -> np.ndarray:
        for step in self.transforms:
            points = step._apply(points)
        return points

    def _move(self, block: Block, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        *firsts, last = self.transforms
        if not firsts:
            return last._move(block, before, after)
        # Matrices at either end are multiplied with those beside them, and no point is moved by them alone.
        if isinstance(last, AffineTransform):
            return CompositeTransform(firsts)._move(block, before, after @ last.matrix)
        if isinstance(firsts[0], AffineTransform):
            return CompositeTransform(self.transforms[1:])._move(block, firsts[0].matrix @ before, after)
        points = firsts[0]._move(block, before, np.eye(self.ndim + 1))
        for step in self.transforms[1:]:
            points = step._apply(points)
        return move_points(after, points)
