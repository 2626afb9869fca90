"""An image: its values, and the grid that says where they lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keramorph.errors import ShapeError
from keramorph.space.grid import Grid


@dataclass(frozen=True, eq=False)
class Image:
    """Values on a physical grid, with one or more channels.

    Args:
        array: Values `(*grid.shape, channels)`, any real data type.
        grid: Where the voxels lie.

    Raises:
        ShapeError: If the array does not have the grid's shape and one channel axis behind it.

    Example:
        >>> Image(np.zeros((5, 6, 1)), Grid.from_spacing((5, 6))).channels
        1
    """

    array: np.ndarray
    grid: Grid

    def __post_init__(self) -> None:
        if tuple(self.array.shape[:-1]) != self.grid.shape:
            raise ShapeError(
                f"An image on a grid of shape {self.grid.shape} needs an array of that shape and one channel axis "
                f"behind it. Received: array.shape={tuple(self.array.shape)}. Add the axis with `array[..., None]`."
            )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.array.shape[-1])
