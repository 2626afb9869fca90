"""Spatial derivatives: of images, and of the maps that displacements make."""

from __future__ import annotations

from collections.abc import Sequence

from keramorph import backend
from keramorph._typing import Array
from keramorph.backend.lines import cut
from keramorph.backend.rule import spread
from keramorph.ops.operation import check_field, operation


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
    slopes = []
    for axis in range(1, ndim + 1):
        count = xp.shape(array)[axis]
        longer = xp.concatenate([cut(array, axis, 0, 1), array, cut(array, axis, count - 1, count)], axis=axis)
        index = xp.arange(count, dtype="int32", like=array)
        edges = xp.cast((index == 0) | (index == count - 1), xp.dtype(array))
        scale = xp.reshape((0.5 + 0.5 * edges) / steps[axis - 1], (count,) + (1,) * (ndim + 1 - axis))
        slopes.append((cut(longer, axis, 2, count + 2) - cut(longer, axis, 0, count)) * scale)
    return xp.stack(slopes, axis=-1)


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
    matrix = jacobian(displacement)
    return _determinant([[matrix[..., i, j] for j in range(matrix.shape[-1])] for i in range(matrix.shape[-1])])


def _determinant(rows: list[list[Array]]) -> Array:
    """Expansion along the first row: exact, and differentiable on every engine."""
    if len(rows) == 1:
        return rows[0][0]
    total = None
    for column, entry in enumerate(rows[0]):
        term = entry * _determinant([row[:column] + row[column + 1 :] for row in rows[1:]])
        term = -term if column % 2 else term
        total = term if total is None else total + term
    return total
