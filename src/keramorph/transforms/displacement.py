"""Displacement fields in millimetres, and their voxel form."""

from __future__ import annotations

import numpy as np

from keramorph import backend
from keramorph.backend.blocks import run_blocks
from keramorph.errors import InputError, ShapeError
from keramorph.ops.vectors import multiply_components, solve_systems, sum_products
from keramorph.space import Grid
from keramorph.transforms.blocks import (
    Block,
    cut_grid,
    find_ends,
    multiply_vectors,
    place_points,
    place_voxels,
    sample_lines,
    sample_points,
)
from keramorph.transforms.transform import Transform

_TOLERANCE = 1e-3
"""Residual, in voxels of the smallest spacing, at which the inverse at a point is done."""

_WORTHWHILE = 0.75
"""Share of points still at work below which it pays to leave the others behind."""

_REACH = 2.0
"""Longest step of the inverse's search, in voxels: no further does a field's slope at a point tell where it goes."""

_SINGULAR = 1e-6
"""Change of volume below which Newton's step is left for the fixed point's."""

_SAME = 1e-7
"""Share of a voxel within which a grid is the field's own: no interpolation then."""


class DisplacementTransform(Transform):
    """A displacement for each voxel of a grid, linear in between; outside, its edge goes on.

    ITK takes zero outside instead: let the field cover the whole fixed image where both must agree.

    Args:
        displacement: Displacement `(*grid.shape, ndim)` in millimetres (x, y, z), LPS, added to fixed points.
        grid: Where the voxels of the field lie.

    Raises:
        ShapeError: If the field does not have the grid's shape and one component per axis.
        InputError: If a value is not finite.

    Example:
        >>> grid = Grid.from_spacing((5, 6))
        >>> DisplacementTransform(np.full((5, 6, 2), 0.5), grid).apply_points([1, 2]).tolist()
        [1.5, 2.5]
    """

    def __init__(self, displacement: np.ndarray, grid: Grid) -> None:
        _check_field(displacement, grid)
        displacement = np.asarray(displacement)
        if displacement.dtype not in (np.float32, np.float64):
            displacement = displacement.astype(np.float32)
        if not np.isfinite(displacement).all():
            raise InputError(
                f"A displacement field must be finite. Received: {int((~np.isfinite(displacement)).sum())} values that "
                "are NaN or infinite. Check how it was made."
            )
        self.displacement = displacement
        self.grid = grid

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return self.grid.ndim

    def inverse(self) -> DisplacementTransform:
        """Return the transform that takes moving points back to fixed points, on the same grid.

        `inverse_with_residual` tells how good it is.
        """
        return self.inverse_with_residual()[0]

    def inverse_with_residual(
        self, *, grid: Grid | None = None, iterations: int = 100
    ) -> tuple[DisplacementTransform, np.ndarray]:
        """Return the inverse and how far it is from one, voxel by voxel.

        The inverse v solves v(y) = -u(y + v(y)), by Newton's method on the linear interpolant of u, voxel by voxel,
        from one step of the fixed point [1] and with steps that never lead further away. Where the field folds, several
        points lead to y: v is one of them, or the residual tells that none was found.

        Args:
            grid: Where the inverse is wanted; the field's own grid by default.
            iterations: Most steps to take; a voxel is done when its residual is a thousandth of a voxel.

        Returns:
            The inverse, and the residual `|v(y) + u(y + v(y))|`, `(*grid.shape,)` in millimetres.

        References:
            [1] Chen et al., "A simple fixed-point approach to invert a deformation field", Medical Physics 35, 2008.
            https://doi.org/10.1118/1.2816107
        """
        grid = self.grid if grid is None else grid
        self._check_ndim(grid, "grid")
        field = to_voxel_displacement(self.displacement, self.grid)
        to_voxels = np.linalg.inv(self.grid.affine) @ grid.affine
        inverse = np.empty((*grid.shape, self.ndim), dtype=self.displacement.dtype)
        residual = np.empty(grid.shape)

        def work(*block: slice) -> None:
            index = [line.astype(field.dtype).ravel() for line in place_voxels(to_voxels, block)]
            solution, error = _solve(field, np.stack(index), self.grid.matrix, iterations)
            moves = multiply_components(self.grid.matrix, solution)
            inverse[block] = np.stack(moves, axis=-1).reshape(inverse[block].shape)
            residual[block] = error.reshape(residual[block].shape)

        run_blocks(work, cut_grid(grid.shape))
        return DisplacementTransform(inverse, grid), residual

    def _apply(self, points: np.ndarray) -> np.ndarray:
        index = self.grid.to_index(points)
        return points + sample_points(self.displacement, index, find_ends(index))

    def _move(self, block: Block, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        own = np.linalg.inv(self.grid.affine) @ before
        if lines := _find_lines(own, block):
            moves = sample_lines(self.displacement, lines)
        else:
            index = place_points(own, block)
            moves = sample_points(self.displacement, index, find_ends(index))
        return place_points(after @ before, block) + multiply_vectors(after, moves)


def _find_lines(matrix: np.ndarray, block: Block) -> list[np.ndarray]:
    """Indices of a field along its axes, where a matrix takes the voxels of a block to a lattice of them; else none.

    Those that hardly differ from whole ones are whole.
    """
    linear, stops = matrix[:-1, :-1], [span.stop for span in block]
    if (np.abs(linear - np.diag(np.diag(linear))) @ stops).max() > _SAME:
        return []
    scales = zip(block, np.diag(linear), matrix[:-1, -1], strict=True)
    lines = [scale * np.arange(span.start, span.stop) + shift for span, scale, shift in scales]
    return [np.where(np.abs(line - np.rint(line)) < _SAME, np.rint(line), line) for line in lines]


def _solve(field: np.ndarray, index: np.ndarray, matrix: np.ndarray, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """Solution v of v = -field(index + v) in voxels, `(ndim, n)`, and the length of what is left in mm, `(n,)`."""
    solution = -np.ascontiguousarray(_sample(field, np.stack(list(index), axis=-1)).T)
    values, slopes = _read(field, index + solution)
    miss = solution + values
    error = _lengths(miss, matrix)
    enough = _TOLERANCE * np.linalg.norm(matrix, axis=0).min()
    # The points still at work, in arrays of their own, and where they belong.
    here, best, least = np.arange(len(error)), solution, error
    share = np.ones(len(error), dtype=field.dtype)
    for _ in range(iterations):
        open_ = least > enough
        if np.count_nonzero(open_) < _WORTHWHILE * len(least):
            solution[:, here], error[here] = best, least
            left = np.flatnonzero(open_)
            if not len(left):
                break
            here, share, least, open_ = (array[left] for array in (here, share, least, open_))
            index, best, miss, slopes = (array[..., left] for array in (index, best, miss, slopes))
        trial = best - share * _step(miss, slopes)
        values, trial_slopes = _read(field, index + trial)
        trial_miss = trial + values
        trial_error = _lengths(trial_miss, matrix)
        better = trial_error < least
        share = np.where(better, np.minimum(2 * share, 1), share / 2).astype(share.dtype)
        better &= open_
        for array, tried in ((best, trial), (miss, trial_miss), (slopes, trial_slopes), (least, trial_error)):
            np.copyto(array, tried, where=better)
    solution[:, here], error[here] = best, least
    return solution, error


def _step(miss: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Newton's step `(ndim, n)` in voxels, no longer than the slopes of a field hold."""
    scaled, volume = solve_systems(list(slopes), miss)
    regular = np.abs(volume) > _SINGULAR
    step = np.where(regular, np.stack(scaled) / np.where(regular, volume, 1), miss)
    length = np.sqrt(sum_products(step, step))
    return step * (_REACH / np.maximum(length, _REACH))


def _lengths(vectors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Lengths `(n,)` in mm of vectors `(ndim, n)` in voxels."""
    moved = multiply_components(matrix, vectors)
    return np.sqrt(sum_products(moved, moved))


def _read(field: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values `(ndim, n)` of a field at continuous indices `(ndim, n)`, and the slopes of `x + field(x)` there."""
    engine, ndim = backend.use("numpy"), len(index)
    values, slopes = engine.sample_with_derivative(field[None], np.stack(list(index), axis=-1)[None])
    slopes = np.ascontiguousarray(np.moveaxis(slopes[0], 0, -1))
    slopes[np.diag_indices(ndim)] += 1
    return np.ascontiguousarray(values[0].T), slopes


def _sample(field: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Field values `(n, ndim)` at continuous indices `(n, ndim)`, its edge extended."""
    return backend.use("numpy").sample(field[None], index[None], order=1, boundary="nearest")[0]


def to_voxel_displacement(displacement: np.ndarray, grid: Grid) -> np.ndarray:
    """Return a field in voxels of its grid, one component per array axis.

    Args:
        displacement: Displacement `(*grid.shape, ndim)` in millimetres (x, y, z), LPS.
        grid: Where the voxels of the field lie.

    Returns:
        Displacement `(*grid.shape, ndim)` in voxels along the array axes, in the field's floating type.

    Raises:
        ShapeError: If the field does not have the grid's shape and one component per axis.

    Example:
        >>> to_voxel_displacement(np.ones((5, 6, 2)), Grid.from_spacing((5, 6), (2.0, 4.0)))[0, 0].tolist()
        [0.5, 0.25]
    """
    _check_field(displacement, grid)
    return _multiply(displacement, np.linalg.inv(grid.matrix))


def from_voxel_displacement(displacement: np.ndarray, grid: Grid) -> np.ndarray:
    """Return a field in millimetres, one component per physical axis.

    Args:
        displacement: Displacement `(*grid.shape, ndim)` in voxels along the array axes.
        grid: Where the voxels of the field lie.

    Returns:
        Displacement `(*grid.shape, ndim)` in millimetres (x, y, z), LPS, in the field's floating type.

    Raises:
        ShapeError: If the field does not have the grid's shape and one component per axis.

    Example:
        >>> from_voxel_displacement(np.ones((5, 6, 2)), Grid.from_spacing((5, 6), (2.0, 4.0)))[0, 0].tolist()
        [4.0, 2.0]
    """
    _check_field(displacement, grid)
    return _multiply(displacement, grid.matrix)


def _multiply(field: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Matrix times each vector of a field, in its own precision but never below single."""
    engine = backend.use("numpy")
    field = np.asarray(field, dtype=np.result_type(np.asarray(field).dtype, np.float32))

    def multiply(field: np.ndarray) -> np.ndarray:
        return engine.xp.stack(multiply_components(matrix, engine.xp.unstack(field)), axis=-1)

    return engine.map_blocks(multiply, field[None])[0]


def _check_field(displacement: np.ndarray, grid: Grid) -> None:
    if np.shape(displacement) != (*grid.shape, grid.ndim):
        raise ShapeError(
            f"A displacement field on a grid of shape {grid.shape} needs the shape {(*grid.shape, grid.ndim)}. "
            f"Received: displacement.shape={np.shape(displacement)}. The last axis holds one component per axis; "
            "there is no batch axis."
        )
