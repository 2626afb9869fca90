"""Affine maps: as matrices, as parameters and as displacements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keramorph import backend
from keramorph._typing import Array
from keramorph.errors import ShapeError
from keramorph.ops.operation import operation, to_sizes


@operation
def affine_to_displacement(matrix: Array, *, shape: Sequence[int], centered: bool = False) -> Array:
    """The displacement on a grid that an affine map makes: `u(x) = A x + b - x`.

    Args:
        matrix: `(batch, ndim, ndim + 1)`, the columns of A and then b, in voxels of the grid.
        shape: Spatial shape of the grid.
        centered: Whether x counts from the grid's centre, `(size - 1) / 2`, instead of the first voxel's.

    Returns:
        `(batch, *shape, ndim)` in voxels, in float32 at least.

    Raises:
        ShapeError: If the matrix does not fit the shape.

    Example:
        >>> import numpy as np
        >>> affine_to_displacement(np.array([[[2.0, 1.0]]]), shape=(3,)).ravel().tolist()
        [1.0, 2.0, 3.0]
    """
    sizes = to_sizes(shape)
    ndim = len(sizes)
    if len(matrix.shape) != 3 or tuple(matrix.shape[1:]) != (ndim, ndim + 1):
        raise ShapeError(
            f"A matrix of shape (batch, {ndim}, {ndim + 1}) was expected for a grid of {ndim} axes. Received: matrix "
            f"of shape {tuple(matrix.shape)}, shape={sizes}. Leave out the last row of a homogeneous matrix."
        )
    xp = backend.of(matrix).xp
    dtype = "float64" if xp.dtype(matrix) == "float64" else "float32"
    matrix = xp.cast(matrix, dtype)
    lines = []
    for axis, count in enumerate(sizes):
        line = xp.arange(count, dtype=dtype, like=matrix)
        if centered:
            line = line - xp.mean(line)
        lines.append(xp.reshape(line, (1,) * (axis + 1) + (count,) + (1,) * (ndim - 1 - axis)))
    entry = lambda i, j: xp.reshape(matrix[:, i, j], (-1,) + (1,) * ndim)  # noqa: E731
    components = []
    for i in range(ndim):
        value = entry(i, ndim)
        for j, line in enumerate(lines):
            value = value + (entry(i, j) - float(i == j)) * line
        components.append(value)
    return xp.stack(components, axis=-1)


@operation
def affine_from_parameters(parameters: Array) -> Array:
    """The affine matrix of translations, rotations, log scales and shears; zeros make the identity.

    `A = R S diag(exp(log scales))` with S unit upper triangular; in 3-D `R = R0 R1 R2`, rotations about the array axes.

    Args:
        parameters: `(batch, 6)` in 2-D: 2 translations, 1 angle, 2 log scales, 1 shear. `(batch, 12)` in 3-D: 3 of
            each. Translations in voxels, angles in radians.

    Returns:
        `(batch, ndim, ndim + 1)`, the columns of A and then the translation.

    Raises:
        ShapeError: If there are neither 6 nor 12 parameters.

    Example:
        >>> import numpy as np
        >>> affine_from_parameters(np.zeros((1, 6)))[0].tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    ndim = {6: 2, 12: 3}.get(parameters.shape[-1], 0) if len(parameters.shape) == 2 else 0
    if not ndim:
        raise ShapeError(
            "Affine parameters have the shape (batch, 6) in 2-D or (batch, 12) in 3-D. Received: parameters of shape "
            f"{tuple(parameters.shape)}."
        )
    xp = backend.of(parameters).xp
    p = [parameters[:, k] for k in range(ndim * (ndim + 1))]
    turns = ndim * (ndim - 1) // 2
    shift, angles = p[:ndim], p[ndim : ndim + turns]
    scales = [xp.exp(value) for value in p[ndim + turns : 2 * ndim + turns]]
    shears = p[2 * ndim + turns :]
    rotation = _rotation(xp, angles)
    rows = []
    for i in range(ndim):
        columns = []
        for j in range(ndim):
            value = rotation[i][j]
            for k in range(j):
                value = value + rotation[i][k] * shears[_shear_index(k, j, ndim)]
            columns.append(value * scales[j])
        rows.append(xp.stack([*columns, shift[i]], axis=-1))
    return xp.stack(rows, axis=-2)


@operation
def affine_to_parameters(matrix: Array) -> Array:
    """Translations, rotations, log scales and shears of an affine matrix: the inverse of `affine_from_parameters`.

    Args:
        matrix: `(batch, ndim, ndim + 1)`, ndim 2 or 3, with a positive determinant: a reflection has no parameters.

    Returns:
        `(batch, 6)` or `(batch, 12)`, in the order of `affine_from_parameters`; not a number for a reflection.

    Raises:
        ShapeError: If the matrix has another shape.

    Example:
        >>> import numpy as np
        >>> affine_to_parameters(np.array([[[2.0, 0.0, 5.0], [0.0, 1.0, 0.0]]])).round(3).tolist()
        [[5.0, 0.0, 0.0, 0.693, 0.0, 0.0]]
    """
    ndim = matrix.shape[1] if len(matrix.shape) == 3 else 0
    if ndim not in (2, 3) or matrix.shape[2] != ndim + 1:
        raise ShapeError(
            "A matrix of shape (batch, 2, 3) or (batch, 3, 4) was expected. Received: matrix of shape "
            f"{tuple(matrix.shape)}. Leave out the last row of a homogeneous matrix."
        )
    xp = backend.of(matrix).xp
    columns = [[matrix[:, i, j] for i in range(ndim)] for j in range(ndim)]
    directions: list[list[Array]] = []
    scales: list[Array] = []
    shears: dict[int, Array] = {}
    for j, column in enumerate(columns):
        rest, along = column, []
        for direction in directions:
            along.append(_dot(direction, column))
            rest = [r - along[-1] * d for r, d in zip(rest, direction, strict=True)]
        length = xp.sqrt(_dot(rest, rest))
        directions.append([r / length for r in rest])
        scales.append(length)
        shears.update({_shear_index(k, j, ndim): value / length for k, value in enumerate(along)})
    # A reflection makes the last direction point the wrong way: its log scale becomes NaN instead of a wrong number.
    handed = _handedness(directions)
    scales[-1] = scales[-1] * xp.where(handed > 0, handed * 0 + 1, handed * 0 + math.nan)
    shift = [matrix[:, i, ndim] for i in range(ndim)]
    logs = [xp.log(scale) for scale in scales]
    return xp.stack([*shift, *_angles(xp, directions), *logs, *(shears[k] for k in sorted(shears))], axis=-1)


def _shear_index(row: int, column: int, ndim: int) -> int:
    """Place of entry (row, column) of the unit upper triangular matrix among the shears: (0,1), (0,2), (1,2)."""
    return row * (ndim - 1) - row * (row - 1) // 2 + column - row - 1


def _dot(a: list[Array], b: list[Array]) -> Array:
    return sum(x * y for x, y in zip(a[1:], b[1:], strict=True)) + a[0] * b[0]


def _handedness(directions: list[list[Array]]) -> Array:
    if len(directions) == 2:
        a, b = directions
        return a[0] * b[1] - a[1] * b[0]
    a, b, c = directions
    cross = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
    return _dot(cross, c)


def _rotation(xp: Any, angles: list[Array]) -> list[list[Array]]:
    """Rows of the rotation by one angle in the plane, or of `R0 R1 R2` about the axes in space."""
    cosines, sines = [xp.cos(a) for a in angles], [xp.sin(a) for a in angles]
    if len(angles) == 1:
        return [[cosines[0], -sines[0]], [sines[0], cosines[0]]]
    (c0, c1, c2), (s0, s1, s2) = cosines, sines
    return [
        [c1 * c2, -c1 * s2, s1],
        [c0 * s2 + s0 * s1 * c2, c0 * c2 - s0 * s1 * s2, -s0 * c1],
        [s0 * s2 - c0 * s1 * c2, s0 * c2 + c0 * s1 * s2, c0 * c1],
    ]


def _angles(xp: Any, columns: list[list[Array]]) -> list[Array]:
    """Angles of a rotation given by its columns."""
    if len(columns) == 2:
        return [xp.arctan2(columns[0][1], columns[0][0])]
    across = xp.sqrt(columns[0][0] ** 2 + columns[1][0] ** 2)
    return [
        xp.arctan2(-columns[2][1], columns[2][2]),
        xp.arctan2(columns[2][0], across),
        xp.arctan2(-columns[1][0], columns[0][0]),
    ]
