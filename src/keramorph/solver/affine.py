"""Linear alignment in millimetres, rigid to affine, level by level, by the derivative of the similarity itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keramorph import backend
from keramorph._typing import Array
from keramorph.solver.hints import measure_landmarks
from keramorph.solver.mapping import measure_inside, voxel_matrix, voxel_positions, weigh, weigh_by_any
from keramorph.solver.minimise import minimise
from keramorph.solver.motion import Kind, Motion
from keramorph.solver.pyramid import Hints, Level
from keramorph.solver.similarity import Similarity, SoftDice, compare_channels, count_channels, split_channels
from keramorph.space import Grid

_TOLERANCE = 1e-4

_ROUNDS = 3
_SETTLED = 0.1
"""Most searches at a level, each with the overlap of the one before; and the motion, in spacings, that ends them."""

_MOST_SCALE = 3.0
"""Stretch or shrinkage along one direction that no pair of images asks for; a mirrored image is none either."""

Notify = Callable[[int, float], None]


@dataclass(frozen=True)
class AffineOptions:
    """How the affine stage works; see `Config`."""

    iterations: int
    similarity: Similarity
    strain_weight: float
    turns_are_free: bool = True
    kind: Kind = "affine"


def fit_affine(
    level: Level, matrix: np.ndarray, options: AffineOptions, *, notify: Notify
) -> tuple[np.ndarray, list[float]]:
    """Return the transform of a kind, affine or less, that aligns the images of a level best, near a first one.

    Args:
        level: Both images at one spacing.
        matrix: Homogeneous matrix in millimetres, fixed to moving points, of that kind, to start from.
        options: Iterations, measure and weight of the strain.
        notify: Called with the number of iterations done and the loss.

    Returns:
        The matrix, and the loss before each iteration and at the end (that of the strain included).
    """
    losses: list[float] = []
    for _ in range(_ROUNDS):
        problem = _Problem(level, matrix, options)
        parameters, found = minimise(
            problem.evaluate,
            np.zeros(problem.count),
            iterations=options.iterations - len(losses),
            reach=min(level.spacing, problem.radius),
            tolerance=_TOLERANCE,
            notify=_count_on(notify, len(losses)),
        )
        matrix = problem.to_matrix(parameters)
        losses += found[:-1]
        if np.abs(parameters).max() < _SETTLED * level.spacing or len(losses) >= options.iterations:
            break
    problem = _Problem(level, matrix, options)
    return matrix, [*losses, problem.evaluate(np.zeros(problem.count))[0]]


def _count_on(notify: Notify, before: int) -> Notify:
    """Return `notify` for a search that goes on where another one stopped."""
    return lambda done, loss: notify(before + done, loss)


class _Problem:
    """Loss of a linear transform as a function of parameters in millimetres.

    The first ones change the matrix, in millimetres of motion at a typical distance from the centre of the fixed
    image, and the last n move that centre: all of them cost and gain alike. The overlap of the images is that of the
    first transform throughout: a transform must not gain by moving what does not fit out of view.
    """

    def __init__(self, level: Level, matrix: np.ndarray, options: AffineOptions) -> None:
        grid = level.fixed.grid
        ndim = grid.ndim
        self.level, self.options, self.matrix = level, options, matrix
        self.fixed = [options.similarity.prepare(channel) for channel in split_channels(level.fixed.values)]
        self.moving = split_channels(level.moving.values)
        self.channels = count_channels(options.similarity, level.fixed.values, level.fixed.mask)
        self.hints = level.hints or Hints()
        self.labels: Any = None if self.hints.labels is None else SoftDice().prepare(self.hints.labels[0].values)
        self.centre = grid.center
        self.radius = _typical_distance(grid)
        self.motion = Motion(options.kind, matrix[:ndim, :ndim], self.radius)
        self.count = self.motion.count + ndim
        # Fixed voxels in units of the radius around the centre, and a 1: what the parameters multiply.
        normal = np.eye(ndim + 1)
        normal[:ndim] = grid.affine[:ndim]
        normal[:ndim, ndim] -= self.centre
        normal[:ndim] /= self.radius
        self.points = voxel_positions(np.vstack([normal, np.eye(ndim + 1)[-1:]]), grid.shape, level.fixed.values)
        positions = self._read_at(matrix)
        inside = measure_inside(positions, level.moving.grid.shape)
        self.weight = weigh(level.fixed.mask, level.moving.mask, positions, inside)

    def to_matrix(self, parameters: np.ndarray) -> np.ndarray:
        """Homogeneous matrix in millimetres that the parameters stand for."""
        ndim = len(self.centre)
        matrix = self.matrix.copy()
        target = self.matrix[:ndim, :ndim] @ self.centre + self.matrix[:ndim, ndim] + parameters[-ndim:]
        matrix[:ndim, :ndim] = self.motion.at(parameters[:-ndim])
        matrix[:ndim, ndim] = target - matrix[:ndim, :ndim] @ self.centre
        return matrix

    def evaluate(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss and its gradient."""
        matrix = self.to_matrix(parameters)
        scales = np.linalg.svd(matrix[:-1, :-1], compute_uv=False)
        if np.linalg.det(matrix[:-1, :-1]) <= 0 or scales[0] > _MOST_SCALE or scales[-1] < 1 / _MOST_SCALE:
            # Not a way from one body to another: the line search takes a shorter step.
            return np.inf, np.zeros_like(parameters)
        engine = backend.of(self.points)
        positions = self._read_at(matrix)
        moved, slopes = zip(*(engine.sample_with_derivative(one, positions) for one in self.moving), strict=True)
        price, pull = self._compare_labels(engine, positions)
        similarity = 0.0
        results = compare_channels(self.options.similarity, self.fixed, moved, self.weight, count=self.channels)
        for slope, result in zip(slopes, results, strict=True):
            similarity += float(result.similarity[0])
            pull = result.derivative * slope[..., 0, :] + pull
        turning, moving = self._collect(engine.xp, pull)
        price += self._add_landmarks(matrix, turning, moving)
        measure = _measure_strain if self.options.turns_are_free else _measure_change
        strain, strain_gradient = measure(matrix[:-1, :-1])
        cost = self.options.strain_weight
        turning += cost * strain_gradient / self.radius
        gradient = np.concatenate([self.motion.pull(parameters[: -len(moving)], turning), moving])
        return 1 - similarity + cost * strain + price, gradient

    def _compare_labels(self, engine: Any, positions: Array) -> tuple[float, Any]:
        """What the labels cost, and the derivative of what they gain to the positions `(1, *spatial, n)`."""
        if self.hints.labels is None:
            return 0.0, 0.0
        moved, slope = engine.sample_with_derivative(self.hints.labels[1].values, positions)
        result = SoftDice().compare(self.labels, moved, weigh_by_any(self.weight))
        pull = engine.xp.sum(result.derivative[..., None] * slope, axis=-2)
        return self.hints.label_weight * (1 - float(result.similarity[0])), self.hints.label_weight * pull

    def _add_landmarks(self, matrix: np.ndarray, turning: np.ndarray, moving: np.ndarray) -> float:
        """What the landmarks cost, its gradient to matrix and shift added to that of the rest."""
        if self.hints.landmarks is None:
            return 0.0
        cost, change = measure_landmarks(self.level, matrix)
        turning += change.T @ (self.hints.landmarks.fixed - self.centre) / self.radius
        moving += change.sum(axis=0)
        return cost

    def _read_at(self, matrix: np.ndarray) -> Array:
        """Voxels of the moving grid at which the fixed voxels read."""
        grid = self.level.fixed.grid
        return voxel_positions(voxel_matrix(matrix, grid, self.level.moving.grid), grid.shape, self.points)

    def _collect(self, xp: Any, to_position: Array) -> tuple[np.ndarray, np.ndarray]:
        """Gradient to matrix and shift, of the similarity's derivative `(1, *spatial, n)` to moving voxels; negated."""
        ndim = len(self.centre)
        rows = xp.reshape(to_position, (-1, ndim))
        points = xp.reshape(self.points, (-1, ndim + 1))
        sums = xp.matmul(xp.transpose(rows, (1, 0)), points)
        total = np.asarray([[float(value) for value in row] for row in sums], dtype=np.float64)
        total = -np.linalg.inv(self.level.moving.grid.matrix).T @ total
        return total[:, :ndim], total[:, ndim]


def _typical_distance(grid: Grid) -> float:
    """Root mean square distance of voxels from the centre along one axis, in millimetres."""
    extent = np.asarray(grid.shape) * grid.spacing
    return float(np.sqrt(np.mean(extent**2) / 12))


def _measure_strain(linear: np.ndarray) -> tuple[float, np.ndarray]:
    """Sum of squares of Green's strain `(MᵀM - I) / 2` of a matrix and of its inverse, and its gradient.

    No rotation changes it, and shrinking costs like stretching.
    """
    inverse = np.linalg.inv(linear)
    identity = np.eye(len(linear))
    strain, inverse_strain = ((m.T @ m - identity) / 2 for m in (linear, inverse))
    gradient = 2 * linear @ strain - inverse.T @ (2 * inverse @ inverse_strain) @ inverse.T
    return float(np.sum(strain**2) + np.sum(inverse_strain**2)) / 2, gradient / 2


def _measure_change(linear: np.ndarray) -> tuple[float, np.ndarray]:
    """Half the sum of squares of `M - I`, and its gradient: what a matrix strains and what it turns."""
    change = linear - np.eye(len(linear))
    return float(np.sum(change**2)) / 2, change
