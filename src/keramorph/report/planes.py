"""The planes of an image that a person looks at: middle slices, the way up and the aspect that a viewer expects."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from keramorph.space import Grid

MOST_PIXELS = 640
"""More pixels than this along a side cost time and show no more: larger planes are thinned out."""


@dataclass(frozen=True, eq=False)
class Plane:
    """A flat set of voxels of a grid, laid out as rows and columns of a picture.

    Args:
        name: What the plane is called, or "" for that of a 2-D image.
        index: Array indices `(rows, columns, ndim)`, integers.
        axes: Physical axes that the rows and the columns follow.
        height: Millimetres from the top to the bottom edge of the picture.
        width: Millimetres from the left to the right edge of the picture.
        edges: Letters of the directions at the left, right, top and bottom edge, or "" for a 2-D image.
    """

    name: str
    index: np.ndarray
    axes: tuple[int, int]
    height: float
    width: float
    edges: str = ""

    def pick(self, array: np.ndarray) -> np.ndarray:
        """Return the voxels `(rows, columns, channels)` of an array `(*spatial, channels)` that lie in the plane."""
        return array[tuple(np.moveaxis(self.index, -1, 0))]


def cut_planes(grid: Grid) -> list[Plane]:
    """Return the planes through the middle of a grid: one for a 2-D grid, axial, coronal and sagittal for a 3-D one.

    Columns and rows follow the physical axes that lie nearest to the array's own: the radiological view, with the
    patient's right on the picture's left and the head at the top.

    Args:
        grid: Grid of the image, 2-D or 3-D.

    Returns:
        The planes, in the order in which they are shown.

    Example:
        >>> [plane.name for plane in cut_planes(Grid.from_spacing((4, 6, 8), (3.0, 1.0, 1.0)))]
        ['axial', 'coronal', 'sagittal']
    """
    if grid.ndim == 2:
        return [_cut(grid, down=(1, 1), across=(0, 1), name="", edges="")]
    return [
        _cut(grid, down=(1, 1), across=(0, 1), name="axial", edges="RLAP"),
        _cut(grid, down=(2, -1), across=(0, 1), name="coronal", edges="RLSI"),
        _cut(grid, down=(2, -1), across=(1, 1), name="sagittal", edges="APSI"),
    ]


def _cut(grid: Grid, *, down: tuple[int, int], across: tuple[int, int], name: str, edges: str) -> Plane:
    """Plane whose rows and columns run along the physical axes `down` and `across`, each (axis, sign)."""
    array_axis, sign = match_axes(grid)
    index = np.broadcast_to(np.asarray(grid.shape) // 2, (1, 1, grid.ndim))
    sides = []
    for side, (physical, wanted) in enumerate((down, across)):
        axis = array_axis[physical]
        steps = np.arange(0, grid.shape[axis], -(-grid.shape[axis] // MOST_PIXELS))
        steps = steps if sign[physical] * wanted > 0 else steps[::-1]
        index = np.repeat(index, len(steps), axis=side)
        index[..., axis] = steps[:, None] if side == 0 else steps[None, :]
        sides.append(grid.shape[axis] * grid.spacing[axis])
    return Plane(name, index, (down[0], across[0]), height=sides[0], width=sides[1], edges=edges)


def match_axes(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each physical axis, the array axis that lies nearest to it and the sign of its direction."""
    cosines = grid.matrix / grid.spacing
    physical = np.arange(grid.ndim)
    orders = np.array(list(itertools.permutations(range(grid.ndim))))
    array_axis = orders[np.argmax(np.abs(cosines[physical, orders]).sum(axis=1))]
    return array_axis, np.sign(cosines[physical, array_axis])
