"""Greedy compositional registration: small smooth updates, composed one after the other.

Each iteration takes the derivative of the similarity, turns it into an update by a smoothed Gauss-Newton step,
composes the displacement with it, u <- compose(u, v), and smooths u a little. An update is shorter than half a voxel
and smoother than a voxel, so that each of them is invertible, and so is what they make together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from keramorph import backend
from keramorph._typing import Array
from keramorph.ops.vectors import multiply_components, sum_products
from keramorph.solver.hints import Follower, Gathered
from keramorph.solver.mapping import locate, voxel_matrix, weigh
from keramorph.solver.pyramid import Level, smoothing_width
from keramorph.solver.similarity import Comparison, Similarity

_PATIENCE = 10
"""Iterations over which the gain is measured."""

_DAMPING = 0.1
"""Curvature added everywhere, as a share of the mean one: where nothing is seen, little is moved."""


@dataclass(frozen=True)
class GreedyOptions:
    """How the deformable stage works, see `Config`; and the `time.perf_counter()` after which no iteration begins."""

    iterations: int
    similarity: Similarity
    update_smoothing: float
    field_smoothing: float
    step: float
    tolerance: float
    deadline: float = math.inf


class _Images(NamedTuple):
    """What an iteration reads and never changes."""

    known: Any
    moving: Array
    fixed_mask: Array | None
    moving_mask: Array | None
    hints: Gathered


def deform(
    level: Level,
    matrix: np.ndarray,
    displacement: Array,
    options: GreedyOptions,
    *,
    notify: Callable[[int, float], None],
) -> tuple[Array, list[float]]:
    """Return the displacement that aligns the images of a level best, near a first one.

    Args:
        level: Both images at one spacing.
        matrix: Homogeneous matrix in millimetres, applied after the displacement.
        displacement: `(1, *spatial, ndim)` in voxels of the level's fixed grid, to start from.
        options: Iterations, measure, smoothing and step.
        notify: Called with the number of iterations done and the loss.

    Returns:
        The displacement, and the loss before each iteration.

    References:
        Yushkevich et al., Fast automatic segmentation of hippocampal subfields and medial temporal lobe subregions in
        3 Tesla and 7 Tesla T2-weighted MRI, 2016, doi:10.1016/j.jalz.2016.06.1205 (the greedy scheme);
        Vercauteren et al., Diffeomorphic demons, 2009, doi:10.1016/j.neuroimage.2008.10.040 (composition).
    """
    engine = backend.of(displacement)
    stepper = _Stepper(level, matrix, options)
    images = stepper.gather()
    iterate = engine.xp.compile(stepper.advance)
    losses: list[float] = []
    for done in range(options.iterations):
        displacement, similarity = iterate(displacement, images)
        losses.append(max(0.0, 1 - float(similarity)))
        notify(done, losses[-1])
        if time.perf_counter() > options.deadline:
            break
        if done >= _PATIENCE and losses[-1 - _PATIENCE] - losses[-1] < options.tolerance * (1 - losses[-1]):
            break
    return displacement, losses


class _Stepper:
    """One iteration at one level, as a function of arrays alone."""

    def __init__(self, level: Level, matrix: np.ndarray, options: GreedyOptions) -> None:
        grid, spacing = level.fixed.grid, level.spacing
        ndim = grid.ndim
        self.level, self.options = level, options
        self.map = voxel_matrix(matrix, grid, level.moving.grid)
        self.update_width = smoothing_width(options.update_smoothing * spacing, grid)
        self.field_width = smoothing_width(options.field_smoothing * spacing, grid)
        # Steps are as long in every direction in units of the spacing, whatever the voxels.
        self.to_units = grid.matrix / spacing
        self.from_units = np.linalg.inv(self.to_units)
        self.linear = self.map[:ndim, :ndim]
        self.follower = Follower(level, matrix)

    def gather(self) -> _Images:
        """What every iteration reads."""
        fixed, moving = self.level.fixed, self.level.moving
        return _Images(
            self.options.similarity.prepare(fixed.values),
            moving.values,
            fixed.mask,
            moving.mask,
            self.follower.gather(),
        )

    def advance(self, displacement: Array, images: _Images) -> tuple[Array, Array]:
        """The next displacement, and the similarity before it."""
        engine = backend.of(displacement)
        positions, inside = locate(self.map, displacement, self.level.moving.grid.shape)
        moved, slope = engine.sample_with_derivative(images.moving, positions)
        weight = weigh(images.fixed_mask, images.moving_mask, positions, inside)
        result = self.options.similarity.compare(images.known, moved, weight)
        extra, cost = self.follower.follow(images.hints, displacement, positions, weight, self._push)
        update = self._propose(engine, result, slope[..., 0, :], extra)
        displacement = engine.compose(displacement, update)
        return engine.gaussian(displacement, sigma=self.field_width), result.similarity - cost

    def _propose(self, engine: Any, result: Comparison, slope: Array, extra: Array | None = None) -> Array:
        """Smooth update in voxels, nowhere longer than the step; `extra` is what else pushes."""
        pushed = self._push(engine, slope, result)
        pushed = pushed if extra is None else pushed + extra
        pushed = engine.gaussian(pushed, sigma=self.update_width)
        return self._limit(engine, pushed, _DAMPING * engine.xp.mean(pushed[..., -1]) + 1e-30)

    def _push(self, engine: Any, slope: Array, result: Comparison) -> Array:
        """Force, in units of the spacing, and stiffness: `(1, *spatial, ndim + 1)`."""
        xp, to_slope = engine.xp, (self.linear @ self.from_units).T
        found = engine.push(slope, result.derivative, result.curvature, to_slope)
        if found is not None:
            return found

        def push(slope: Array, derivative: Array, curvature: Array) -> Array:
            slopes = multiply_components(to_slope, xp.unstack(slope))
            stiffness = curvature[..., 0] * sum_products(slopes, slopes)
            return xp.stack([*(derivative[..., 0] * part for part in slopes), stiffness], axis=-1)

        return engine.map_blocks(push, slope, result.derivative, result.curvature)

    def _limit(self, engine: Any, pushed: Array, damping: Array) -> Array:
        """Update in voxels that force and stiffness make."""
        xp, most = engine.xp, self.options.step
        found = engine.limit(pushed, self.from_units, damping=damping, most=most)
        if found is not None:
            return found

        def limit(pushed: Array) -> Array:
            *force, stiffness = xp.unstack(pushed)
            stiffness = stiffness + damping
            update = [part / stiffness for part in force]
            length = xp.sqrt(sum_products(update, update))
            share = most / xp.maximum(length, length * 0 + most)
            return xp.stack(multiply_components(self.from_units, [part * share for part in update]), axis=-1)

        return engine.map_blocks(limit, pushed)
