"""Spatial derivatives: of images, and of the maps that displacements make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keramorph import backend
from keramorph._typing import Array
from keramorph.backend.lines import cut
from keramorph.backend.rule import spread
from keramorph.ops.operation import check_field, operation
from keramorph.ops.vectors import determinant


@operation
def spatial_gradient(array: Array, *, spacing: float | Sequence[float] | None = None) -> Array:
    """Derivatives along the spatial axes: central differences inside, one-sided at the edges.

    Args:
        array: `(batch, *spatial, channels)`, floating point.
        spacing: Millimetres between voxels, one or one per axis; None counts in voxels.

    Returns:
        `(batch, *spatial, channels, ndim)`, per voxel or per millimetre; zero along axes of size 1.

    Raises:
        OptionError: If `spacing` has another length than there are axes.

    Example:
        >>> import numpy as np
        >>> spatial_gradient(np.array([0.0, 1.0, 4.0, 9.0])[None, :, None]).ravel().tolist()
        [1.0, 2.0, 4.0, 5.0]
    """
    xp = backend.of(array).xp
    ndim = len(array.shape) - 2
    steps = spread("spacing", 1.0 if spacing is None else spacing, ndim)
    return xp.stack([_differentiate(xp, array, axis + 1) / steps[axis] for axis in range(ndim)], axis=-1)


def _differentiate(xp: Any, array: Array, axis: int) -> Array:
    """Central differences along an axis, one-sided at its ends."""
    count = xp.shape(array)[axis]
    longer = xp.concatenate([cut(array, axis, 0, 1), array, cut(array, axis, count - 1, count)], axis=axis)
    index = xp.arange(count, dtype="int32", like=array)
    edges = xp.cast((index == 0) | (index == count - 1), xp.dtype(array))
    scale = xp.reshape(0.5 + 0.5 * edges, (count,) + (1,) * (len(array.shape) - 1 - axis))
    return (cut(longer, axis, 2, count + 2) - cut(longer, axis, 0, count)) * scale


@operation
def jacobian(displacement: Array) -> Array:
    """Jacobian matrices of the map `x -> x + u(x)`.

    Args:
        displacement: `(batch, *spatial, ndim)` in voxels.

    Returns:
        `(batch, *spatial, ndim, ndim)`: row d holds the derivatives of component d along the array axes.

    Raises:
        ShapeError: If the displacement has not one component per spatial axis.

    Example:
        >>> import numpy as np
        >>> jacobian(np.zeros((1, 3, 3, 2)))[0, 1, 1].tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    check_field(displacement, displacement)
    xp = backend.of(displacement).xp
    ndim = displacement.shape[-1]
    identity = [[float(i == j) for j in range(ndim)] for i in range(ndim)]
    return spatial_gradient(displacement) + xp.asarray(identity, dtype=xp.dtype(displacement), like=displacement)


@operation
def jacobian_determinant(displacement: Array) -> Array:
    """Local change of volume of the map `x -> x + u(x)`; zero or less where it folds.

    Args:
        displacement: `(batch, *spatial, ndim)` in voxels, ndim 1, 2 or 3.

    Returns:
        `(batch, *spatial)`; 1 keeps the volume.

    Raises:
        ShapeError: If the displacement has not one component per spatial axis.

    Example:
        >>> import numpy as np
        >>> field = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0), indexing="ij"), axis=-1)
        >>> jacobian_determinant(0.5 * field[None])[0, 1, 1].item()
        2.25
    """
    check_field(displacement, displacement)
    engine = backend.of(displacement)
    identity = np.eye(displacement.shape[-1])
    return engine.map_blocks(lambda u: shifted_determinant(slopes_of(u), identity), displacement, halo=1)


def slopes_of(displacement: Array) -> list[list[Array]]:
    """Derivative of each component along each axis: rows of arrays `(batch, *spatial)`."""
    xp = backend.of(displacement).xp
    components = xp.unstack(displacement)
    return [[_differentiate(xp, part, axis + 1) for axis in range(len(components))] for part in components]


def shifted_determinant(slopes: list[list[Array]], matrix: np.ndarray) -> Array:
    """Determinant of the slopes plus a matrix `(ndim, ndim)`."""
    rows = zip(slopes, matrix.tolist(), strict=True)
    return determinant([[s + m if m else s for s, m in zip(*row, strict=True)] for row in rows])
