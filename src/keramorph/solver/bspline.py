"""Free-form deformation: at each level the displacement is a cubic B-spline on a grid of control points.

The coefficients are what is searched. A step is the force on each voxel, gathered by the control points that reach it
(the adjoint of evaluating the spline), over the stiffness gathered likewise: the sums along the rows of the matrix of
Gauss and Newton, which bound it. After a step the coefficients diffuse as far as a field does under the Gaussian of the
other algorithms. All of this is products with one small matrix per axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from keramorph import backend
from keramorph._typing import Array
from keramorph.solver.deformation import Deformation, Fields, Images, Member
from keramorph.solver.mapping import to_engine
from keramorph.solver.stack import apply_each
from keramorph.space import Grid

_EASE = 0.5
"""Share of the other algorithms' smoothing that a spline needs, which is smooth by itself, where nothing is doubted."""


class BSpline(Deformation):
    """The displacement, and within a level its coefficients.

    References:
        Rueckert et al., Nonrigid registration using free-form deformations: application to breast MR images, 1999,
        doi:10.1109/42.796284.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__(members)
        like, spacing = self.level.fixed.values, self.options.control_spacing * self.level.spacing
        bases = list_bases(self.level.field_grid, spacing)
        self.bases, self.adjoints, self.fits = (
            [to_engine(each, like) for each in matrices]
            for matrices in (bases, [basis.T for basis in bases], [np.linalg.pinv(basis) for basis in bases])
        )
        self.spreads = [
            _list_spreads(width, one.options.doubt, spacing / one.level.field_grid.spacing)
            for width, one in zip(self.field_widths, members, strict=True)
        ]
        self.diffusions = {
            spreads: [to_engine(make_diffusion(b.shape[1], s), like) for b, s in zip(bases, spreads, strict=True)]
            for spreads in self.spreads
        }

    def enter(self, fields: Fields) -> Fields:
        """The coefficients nearest to what was found before."""
        return (gather(fields[0], self.fits),)

    def leave(self, state: Fields) -> Fields:
        """The displacement that they stand for."""
        return (evaluate(state[0], self.bases),)

    def advance(self, state: Fields, images: Images) -> tuple[Fields, Array]:
        """The next coefficients, and the similarity before them."""
        (coefficients,) = state
        pushed, similarity = self.push(evaluate(coefficients, self.bases), images)
        step = self.limit(gather(pushed, self.adjoints), self.options.step)
        return (apply_each(self._diffuse, coefficients + step, self.spreads),), similarity

    def _diffuse(self, coefficients: Array, spreads: tuple[float, ...]) -> Array:
        return gather(coefficients, self.diffusions[spreads])


def _list_spreads(widths: tuple[float, ...], doubt: float, distances: np.ndarray) -> tuple[float, ...]:
    """How far coefficients diffuse along each axis, in the distances of their points, which are in voxels."""
    share = min(1.0, _EASE * doubt)
    return tuple(share * width / max(1.0, far) for width, far in zip(widths, distances.tolist(), strict=True))


def list_bases(grid: Grid, spacing: float) -> list[np.ndarray]:
    """B-splines at the voxels of each axis, `(voxels, control points)`.

    Control points lie `spacing` millimetres apart, or a voxel where that is more, and one and more beyond either end.
    """
    return [make_basis(n, max(1.0, spacing / h)) for n, h in zip(grid.shape, grid.spacing.tolist(), strict=True)]


def make_basis(count: int, distance: float) -> np.ndarray:
    """Cubic B-splines `distance` voxels apart at `count` voxels; each row sums to 1, and one voxel gets a constant."""
    if count == 1:
        return np.ones((1, 1))
    spans = max(1, math.ceil((count - 1) / distance))
    # As many on the one side as on the other.
    place = (np.arange(count) - (count - 1) / 2) / distance + spans / 2
    offset = np.abs(place[:, None] - np.arange(-1, spans + 2)[None])
    near, far = np.maximum(1 - offset, 0), np.maximum(2 - offset, 0)
    return (far**3 - 4 * near**3) / 6


def make_diffusion(count: int, spread: float) -> np.ndarray:
    """What diffuses values at `count` points by a standard deviation, in their distances; nothing leaves the ends."""
    slope = np.diff(np.eye(count), axis=0)
    sizes, modes = np.linalg.eigh(slope.T @ slope)
    return (modes * np.exp(-(spread**2) / 2 * sizes)) @ modes.T


def evaluate(coefficients: Array, bases: list[Array]) -> Array:
    """The spline `(pairs, *voxels, channels)` that coefficients `(pairs, *control points, channels)` stand for."""
    for axis in reversed(range(len(bases))):
        coefficients = _multiply(coefficients, bases[axis], axis + 1)
    return coefficients


def gather(values: Array, matrices: list[Array]) -> Array:
    """Values `(pairs, *voxels, channels)` brought to the control points by a matrix `(points, voxels)` per axis.

    By the transposes of the bases this is the adjoint of `evaluate`.
    """
    for axis, matrix in enumerate(matrices):
        values = _multiply(values, matrix, axis + 1)
    return values


def _multiply(array: Array, matrix: Array, axis: int) -> Array:
    """Product of a matrix with each line along an axis."""
    xp = backend.of(array).xp
    shape = tuple(array.shape)
    lines = xp.reshape(array, (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])))
    return xp.reshape(xp.matmul(matrix, lines), (*shape[:axis], matrix.shape[0], *shape[axis + 1 :]))
