"""What is known of a pair beside its images: landmarks and labels, and what it costs where they do not meet."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from keramorph import backend
from keramorph._typing import Array
from keramorph.solver.config import Config
from keramorph.solver.mapping import to_engine, to_numpy, weigh_by_any
from keramorph.solver.pyramid import Hints, Landmarks, Layer, Level, build_pyramid, coarsen_grid
from keramorph.solver.similarity import Comparison, SoftDice

_LARGEST = 40_000_000
"""Voxels times labels of a level up to which labels are compared there."""

Push = Callable[[Array, Comparison], Array]
"""From a channel's slope and comparison to a force in units of the spacing, and a stiffness."""


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a pair.

    Args:
        landmarks: Points of both images; None for none.
        labels: Both label maps, numbers as values, on the grids of the images; None for none.
    """

    landmarks: Landmarks | None = None
    labels: tuple[Layer, Layer] | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is known."""
        return self.landmarks is None and self.labels is None


def build_hints(known: Known, spacings: list[float], config: Config) -> list[Hints | None]:
    """Return what is known at each of the spacings, coarse to fine; None where that is nothing."""
    if known.empty:
        return [None] * len(spacings)
    labels = [None] * len(spacings) if known.labels is None else _build_labels(*known.labels, spacings)
    return [Hints(known.landmarks, pair, config.landmark_weight, config.label_weight) for pair in labels]


def _build_labels(fixed: Layer, moving: Layer, spacings: list[float]) -> list[Any]:
    """Both label maps at each spacing, a channel for each label of both; None where they would take too much room."""
    shared = sorted(set(_list_labels(fixed)) & set(_list_labels(moving)))
    if not shared:
        return [None] * len(spacings)
    grids = [coarsen_grid(fixed.grid, spacing) for spacing in spacings]
    kept = sum(math.prod(grid.shape) * len(shared) <= _LARGEST for grid in grids)
    # One label after the other: all of them at the finest level might not fit.
    each = [[build_pyramid(_pick(layer, label), spacings)[:kept] for label in shared] for layer in (fixed, moving)]
    joined = [tuple(_join([layers[k] for layers in side]) for side in each) for k in range(kept)]
    return [*joined, *[None] * (len(spacings) - kept)]


def _list_labels(layer: Layer) -> list[float]:
    return [label for label in np.unique(to_numpy(layer.values)).tolist() if label != 0]


def _pick(layer: Layer, label: float) -> Layer:
    """1 where a label is, 0 elsewhere."""
    xp = backend.of(layer.values).xp
    return Layer(xp.where(layer.values == label, layer.values * 0 + 1, layer.values * 0), None, layer.grid)


def _join(layers: list[Layer]) -> Layer:
    xp = backend.of(layers[0].values).xp
    return Layer(xp.concatenate([layer.values for layer in layers], axis=-1), None, layers[0].grid)


def measure_landmarks(level: Level, matrix: np.ndarray) -> tuple[float, np.ndarray]:
    """Return what the landmarks cost under an affine map, and the derivative to where each is mapped, `(points, ndim)`.

    The cost is the mean of their squared distances in spacings of the level.
    """
    assert level.hints is not None
    assert level.hints.landmarks is not None
    fixed, moving = level.hints.landmarks
    miss = (fixed @ matrix[:-1, :-1].T + matrix[:-1, -1] - moving) / level.spacing
    cost = level.hints.landmark_weight * float(np.sum(miss**2)) / len(miss)
    return cost, level.hints.landmark_weight * 2 / len(miss) * miss / level.spacing


class Gathered(NamedTuple):
    """What hints let an iteration read: arrays, or nothing.

    `places` are the landmarks in fixed voxels, `(1, points, ndim)`, `aims` the displacements that they ask for; `fixed`
    is what `SoftDice` prepared of the fixed labels, `moving` the moving ones.
    """

    places: Array | None = None
    aims: Array | None = None
    fixed: Any = None
    moving: Array | None = None

    @property
    def any(self) -> bool:
        """Whether there is anything."""
        return self.places is not None or self.moving is not None


class Follower:
    """What hints add to an iteration of a deformation at one level, as functions of arrays alone."""

    def __init__(self, level: Level, matrix: np.ndarray) -> None:
        self.level, self.matrix, self.hints = level, matrix, level.hints or Hints()
        self.to_units = level.fixed.grid.matrix / level.spacing
        self.dice = SoftDice()

    def gather(self) -> Gathered:
        """What every iteration reads."""
        grid, like = self.level.fixed.grid, self.level.fixed.values
        places = aims = fixed = moving = None
        if self.hints.landmarks is not None:
            points, goals = self.hints.landmarks
            index = grid.to_index(points)
            back = np.linalg.inv(self.matrix)
            aim = grid.to_index(goals @ back[:-1, :-1].T + back[:-1, -1]) - index
            places, aims = to_engine(index[None], like), to_engine(aim[None], like)
        if self.hints.labels is not None:
            fixed, moving = self.dice.prepare(self.hints.labels[0].values), self.hints.labels[1].values
        return Gathered(places, aims, fixed, moving)

    def follow(
        self, arrays: Gathered, displacement: Array, positions: Array, weight: Array, push: Push
    ) -> tuple[Array | None, Any]:
        """Force and stiffness `(1, *spatial, ndim + 1)` of all hints, None without any, and what they cost.

        Args:
            arrays: What `gather` returned.
            displacement: `(1, *spatial, ndim)` in fixed voxels.
            positions: Where it leads in the moving image, in its voxels.
            weight: How much each fixed voxel counts.
            push: What turns a channel's comparison into force and stiffness.
        """
        pushed, cost = None, 0.0
        if arrays.moving is not None:
            pushed, cost = self._follow_labels(arrays, positions, weight, push)
        if arrays.places is not None:
            more, price = self._follow_landmarks(arrays, displacement)
            pushed, cost = more if pushed is None else pushed + more, cost + price
        return pushed, cost

    def _follow_labels(self, arrays: Gathered, positions: Array, weight: Array, push: Push) -> tuple[Array, Array]:
        moved, slope = backend.of(positions).sample_with_derivative(arrays.moving, positions)
        result = self.dice.compare(arrays.fixed, moved, weigh_by_any(weight))
        pushed: Any = 0.0
        for k in range(moved.shape[-1]):
            part = Comparison(
                result.similarity, result.derivative[..., k : k + 1] * 1, result.curvature[..., k : k + 1] * 1
            )
            pushed = pushed + push(slope[..., k, :] * 1, part)
        return self.hints.label_weight * pushed, self.hints.label_weight * (1 - result.similarity[0])

    def _follow_landmarks(self, arrays: Gathered, displacement: Array) -> tuple[Array, Array]:
        """Gauss-Newton forces at the landmarks, spread over the voxels around them."""
        engine = backend.of(displacement)
        xp = engine.xp
        to_units = xp.asarray(self.to_units.T, dtype=xp.dtype(displacement), like=displacement)
        miss = xp.matmul(arrays.aims - engine.sample(displacement, arrays.places), to_units)
        stiffness = 2 * self.hints.landmark_weight / arrays.places.shape[1]  # type: ignore[union-attr]
        force = xp.concatenate([miss, miss[..., :1] * 0 + 1], axis=-1) * stiffness
        pushed = engine.splat(force, arrays.places, shape=tuple(displacement.shape[1:-1]))
        return pushed, stiffness / 2 * xp.sum(miss * miss)
