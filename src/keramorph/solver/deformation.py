"""What all algorithms of the deformable stage share: the force of the images, the length of a step, and when to end.

An algorithm says what is searched (a displacement, a velocity, two halves, coefficients) and how a step changes it.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from keramorph import backend, ops
from keramorph._typing import Array
from keramorph.ops.vectors import multiply_components, sum_products
from keramorph.solver.blocks import Pair, add_blocks, add_up
from keramorph.solver.hints import Follower, Gathered
from keramorph.solver.mapping import locate, voxel_matrix, weigh
from keramorph.solver.pyramid import Level, smoothing_width
from keramorph.solver.similarity import (
    BlockCorrelation,
    Comparison,
    Similarity,
    compare_channels,
    count_channels,
    split_channels,
)

_PATIENCE = 10
"""Iterations over which the gain is measured."""

_DAMPING = 0.1
"""Curvature added everywhere, as a share of the mean one: where nothing is seen, little is moved."""

Fields = tuple[Array, ...]
"""What an algorithm searches, on the grid of a level's displacement: each `(1, *spatial, ndim)` in its voxels."""


@dataclass(frozen=True)
class DeformationOptions:
    """How the deformable stage works, see `Config`.

    `doubt` is the factor by which the coarser level raised `field_smoothing`, `deadline` the `time.perf_counter()`
    after which no iteration begins, `by_blocks` what takes the place of `similarity` where it can be had by blocks.
    """

    iterations: int
    similarity: Similarity
    update_smoothing: float
    field_smoothing: float
    step: float
    tolerance: float
    control_spacing: float = 4.0
    doubt: float = 1.0
    deadline: float = math.inf
    by_blocks: BlockCorrelation | None = None


class Images(NamedTuple):
    """What an iteration reads and never changes; `known`, what is prepared of them, and both images by channels."""

    fixed: tuple[Array, ...]
    known: Any
    moving: tuple[Array, ...]
    fixed_mask: Array | None
    moving_mask: Array | None
    hints: Gathered


class Deformation(ABC):
    """An algorithm at one level.

    Args:
        level: Both images at one spacing.
        matrix: Homogeneous matrix in millimetres, applied after the displacement.
        options: Iterations, measure, smoothing and step.
    """

    def __init__(self, level: Level, matrix: np.ndarray, options: DeformationOptions) -> None:
        spacing, bearer = level.spacing, replace(level.bearer, spacing=level.spacing)
        grid = bearer.fixed.grid
        self.level, self.options = level, options
        self.map, self.per_unit = _map_units(level, matrix)
        self.update_width = smoothing_width(options.update_smoothing * spacing, grid)
        # On a coarser grid a Gaussian as narrow would do next to nothing.
        self.field_width = smoothing_width(options.field_smoothing * math.sqrt(spacing * level.bearer.spacing), grid)
        # Steps are as long in every direction in units of the spacing, whatever the voxels.
        self.from_units = np.linalg.inv(grid.matrix / spacing)
        self.follower = Follower(bearer, matrix)
        self.channels = count_channels(options.similarity, level.fixed.values, level.fixed.mask)
        self.bearer_map, self.bearer_per_unit = _map_units(bearer, matrix)

    @staticmethod
    def begin(displacement: Array, *, bent: bool) -> Fields:
        """What is searched, where it makes a displacement; `bent` tells whether that is other than zero."""
        return (displacement,)

    @staticmethod
    def to_displacement(fields: Fields) -> Array:
        """The displacement that is made of what was found."""
        return fields[0]

    def enter(self, fields: Fields) -> Fields:
        """What the iterations of this level change, of what the coarser one left."""
        return fields

    def leave(self, state: Fields) -> Fields:
        """What this level hands on."""
        return state

    @abstractmethod
    def advance(self, state: Fields, images: Images) -> tuple[Fields, Array]:
        """One iteration, as a function of arrays alone: what is changed, and the similarity before."""

    def gather(self) -> Images:
        """What every iteration reads."""
        fixed, moving, by_blocks = self.level.fixed, self.level.moving, self.options.by_blocks
        channels = split_channels(fixed.values)
        known: tuple[Any, ...]
        if by_blocks is not None:
            known = tuple(by_blocks.prepare(channel, self.level.field_grid.shape) for channel in channels)
        else:
            known = tuple(self.options.similarity.prepare(channel) for channel in channels)
        images = channels, known, split_channels(moving.values)
        return Images(*images, fixed.mask, moving.mask, self.follower.gather())

    def push(self, displacement: Array, images: Images) -> tuple[Array, Array]:
        """Force and stiffness `(1, *spatial, ndim + 1)` at each vector, and the similarity less what hints cost."""
        if self.options.by_blocks is not None:
            pushed, similarity = self._push_blocks(displacement, images, self.options.by_blocks)
        elif self.level.coarser is None:
            pushed, similarity = self._push_voxels(displacement, images)
        else:
            finer = ops.resize_displacement(displacement, shape=self.level.fixed.grid.shape)
            pushed, similarity = self._push_voxels(finer, images)
            pushed = add_up(pushed, self.level.field_grid.shape)
        extra, cost = self._follow(displacement, images)
        return pushed if extra is None else pushed + extra, similarity - cost

    def _push_blocks(self, displacement: Array, images: Images, measure: BlockCorrelation) -> tuple[Array, Array]:
        """Force and stiffness at each block, the mean of the channels', and the similarity."""
        parts = []
        for fixed, moving, known in zip(images.fixed, images.moving, images.known, strict=True):
            pair = Pair(fixed, moving, images.fixed_mask, images.moving_mask)
            parts.append(measure.push(known, add_blocks(pair, displacement, self.map, self.per_unit.T)))
        if len(parts) == 1:
            return parts[0]
        return sum(part[0] for part in parts) / len(parts), sum(part[1] for part in parts) / len(parts)

    def _push_voxels(self, displacement: Array, images: Images) -> tuple[Array, Array]:
        """Force and stiffness at each voxel, and the similarity."""
        positions, inside = locate(self.map, displacement, self.level.moving.grid.shape)
        moved, slopes = read_channels(images.moving, positions)
        weight = weigh(images.fixed_mask, images.moving_mask, positions, inside)
        del positions, inside
        found = compare_channels(self.options.similarity, images.known, moved, weight, count=self.channels)
        results = list(found)
        del moved, weight
        return self.weigh_slopes(slopes, results, self.per_unit), sum(result.similarity for result in results)

    def _follow(self, displacement: Array, images: Images) -> tuple[Array | None, Any]:
        """Force and stiffness of the hints at each vector, None without any, and what they cost."""
        if not images.hints.any:
            return None, 0.0
        bearer = self.level.bearer
        positions, inside = locate(self.bearer_map, displacement, bearer.moving.grid.shape)
        weight = weigh(bearer.fixed.mask, bearer.moving.mask, positions, inside)
        return self.follower.follow(images.hints, displacement, positions, weight, self._push_channel)

    def _push_channel(self, slope: Array, result: Comparison) -> Array:
        """Force and stiffness that one channel of what is known of the images makes by its slope."""
        return self.weigh_slope(slope, result, self.bearer_per_unit)

    def weigh_slopes(self, slopes: list[Array], results: list[Comparison], per_unit: np.ndarray) -> Array:
        """Force and stiffness that all channels of an image make, see `weigh_slope`."""
        pushed = self.weigh_slope(slopes[0], results[0], per_unit)
        for slope, result in zip(slopes[1:], results[1:], strict=True):
            pushed = pushed + self.weigh_slope(slope, result, per_unit)
        return pushed

    def weigh_slope(self, slope: Array, result: Comparison, per_unit: np.ndarray) -> Array:
        """Force, in units of the spacing, and stiffness: `(1, *spatial, ndim + 1)`.

        `per_unit` takes moves in units of the spacing to those along which the slope is.
        """
        engine = backend.of(slope)
        xp, to_slope = engine.xp, per_unit.T
        found = engine.push(slope, result.derivative, result.curvature, to_slope)
        if found is not None:
            return found

        def push(slope: Array, derivative: Array, curvature: Array) -> Array:
            slopes = multiply_components(to_slope, xp.unstack(slope))
            stiffness = curvature[..., 0] * sum_products(slopes, slopes)
            return xp.stack([*(derivative[..., 0] * part for part in slopes), stiffness], axis=-1)

        return engine.map_blocks(push, slope, result.derivative, result.curvature)

    def find_update(self, displacement: Array, images: Images) -> tuple[Array, Array]:
        """Smooth update in voxels, nowhere longer than the step, and the similarity."""
        pushed, similarity = self.push(displacement, images)
        pushed = self.blur(pushed)
        return self.limit(pushed, self.options.step), similarity

    def blur(self, pushed: Array) -> Array:
        """Force and stiffness, as smooth as an update shall be."""
        return backend.of(pushed).gaussian(pushed, sigma=self.update_width)

    def limit(self, pushed: Array, most: float) -> Array:
        """Update in voxels that force and stiffness make, no longer than `most` spacings."""
        engine = backend.of(pushed)
        xp = engine.xp
        damping = _DAMPING * xp.mean(pushed[..., -1]) + 1e-30
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

    def smooth(self, field: Array) -> Array:
        """The field, as smooth as each level keeps it."""
        return backend.of(field).gaussian(field, sigma=self.field_width)


def _map_units(level: Level, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The matrix from fixed to moving voxels of a level, and the one that takes moves in units of the spacing there."""
    grid = level.fixed.grid
    between = voxel_matrix(matrix, grid, level.moving.grid)
    return between, between[: grid.ndim, : grid.ndim] @ np.linalg.inv(grid.matrix / level.spacing)


def read_channels(channels: tuple[Array, ...], positions: Array) -> tuple[list[Array], list[Array]]:
    """Each channel at positions, `(1, *spatial, 1)`, and its slope there, `(1, *spatial, ndim)`."""
    read = [backend.of(positions).sample_with_derivative(channel, positions) for channel in channels]
    return [values for values, _ in read], [slope[..., 0, :] for _, slope in read]


def deform(
    deformation: Deformation, fields: Fields, *, notify: Callable[[int, float], None]
) -> tuple[Fields, list[float]]:
    """Return what aligns the images of a level best, near a first guess.

    Args:
        deformation: The algorithm, at that level.
        fields: What it searches, to start from.
        notify: Called with the number of iterations done and the loss.

    Returns:
        What was found, and the loss before each iteration.
    """
    options, images, state = deformation.options, deformation.gather(), deformation.enter(fields)
    iterate = backend.of(*state).xp.compile(deformation.advance)
    losses: list[float] = []
    for done in range(options.iterations):
        state, similarity = iterate(state, images)
        losses.append(max(0.0, 1 - float(similarity)))
        notify(done, losses[-1])
        if time.perf_counter() > options.deadline:
            break
        if done >= _PATIENCE and losses[-1 - _PATIENCE] - losses[-1] < options.tolerance * (1 - losses[-1]):
            break
    return deformation.leave(state), losses
