"""What all algorithms of the deformable stage share: the force of the images, the length of a step, and when to end.

An algorithm says what is searched (a displacement, a velocity, two halves, coefficients) and how a step changes it. It
works on a stack of pairs at once, one for the most part: each is deformed as if it were alone.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from keramorph import backend, ops
from keramorph._typing import Array
from keramorph.ops.vectors import sum_products
from keramorph.solver.blocks import Pair, add_blocks, add_up
from keramorph.solver.hints import Follower, Gathered
from keramorph.solver.mapping import locate, map_vectors, to_numpy, voxel_matrix, weigh
from keramorph.solver.pyramid import Layer, Level, smoothing_width
from keramorph.solver.similarity import (
    BlockCorrelation,
    Comparison,
    Similarity,
    compare_channels,
    count_channels,
    split_channels,
)
from keramorph.solver.similarity.measure import mean_each
from keramorph.solver.stack import apply_each, join, take

_PATIENCE = 10
"""Iterations over which the gain is measured."""

_DAMPING = 0.1
"""Curvature added everywhere, as a share of the mean one: where nothing is seen, little is moved."""

Fields = tuple[Array, ...]
"""What an algorithm searches, on the grid of a level's displacement: each `(pairs, *spatial, ndim)` in its voxels."""


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


class Member(NamedTuple):
    """One pair at a level.

    Args:
        level: Both images at one spacing.
        matrix: Homogeneous matrix in millimetres, applied after the displacement.
        options: Iterations, measure, smoothing and step.
    """

    level: Level
    matrix: np.ndarray
    options: DeformationOptions

    def find_widths(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Standard deviations of the Gaussians for an update and for the field, in voxels of the latter."""
        level, options, grid = self.level, self.options, self.level.field_grid
        # On a coarser grid a Gaussian as narrow as on the image's own would do next to nothing.
        between = math.sqrt(level.spacing * level.bearer.spacing)
        updates = smoothing_width(options.update_smoothing * level.spacing, grid)
        return updates, smoothing_width(options.field_smoothing * between, grid)


class Deformation(ABC):
    """An algorithm at one level, for a stack of pairs.

    Args:
        members: The pairs. Arrays of all have the same shapes, and options differ by `field_smoothing` and `doubt`
            alone. One that has hints, blocks or a mask for each channel is alone.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        level, matrix, options = members[0]
        # What all have in common is the first one's.
        self.members, self.level, self.options = members, level, options
        self.map, self.per_unit = _map_units([(member.level, member.matrix) for member in members])
        self.update_widths, self.field_widths = zip(*(member.find_widths() for member in members), strict=True)
        # Steps are as long in every direction in units of the spacing, whatever the voxels.
        between = [member.level.field_grid.matrix / member.level.spacing for member in members]
        self.from_units = np.stack([np.linalg.inv(one) for one in between])
        self.channels = count_channels(options.similarity, level.fixed.values, level.fixed.mask)
        bearer = replace(level.bearer, spacing=level.spacing)
        self.follower = Follower(bearer, matrix)
        self.bearer_map, self.bearer_per_unit = _map_units([(bearer, matrix)])

    def take(self, places: Sequence[int]) -> Deformation:
        """The same for some of the pairs, in the midst of a level."""
        return type(self)([self.members[place] for place in places])

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
        (fixed, moving), by_blocks = self.join_layers(), self.options.by_blocks
        channels = split_channels(fixed.values)
        known: tuple[Any, ...]
        if by_blocks is not None:
            known = tuple(by_blocks.prepare(channel, self.level.field_grid.shape) for channel in channels)
        else:
            known = tuple(self.options.similarity.prepare(channel) for channel in channels)
        images = channels, known, split_channels(moving.values)
        return Images(*images, fixed.mask, moving.mask, self.follower.gather())

    def join_layers(self) -> tuple[Layer, Layer]:
        """The fixed and the moving images of all pairs; their grids are the first one's."""
        sides = zip(*((member.level.fixed, member.level.moving) for member in self.members), strict=True)
        fixed, moving = (_join_layers(side) for side in sides)
        return fixed, moving

    def push(self, displacement: Array, images: Images) -> tuple[Array, Array]:
        """Force and stiffness `(pairs, *spatial, ndim + 1)` at each vector, and the similarity less what hints cost."""
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
            parts.append(measure.push(known, add_blocks(pair, displacement, self.map[0], self.per_unit[0].T)))
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
        """Force and stiffness that all channels of the images make, see `weigh_slope`."""
        pushed = self.weigh_slope(slopes[0], results[0], per_unit)
        for slope, result in zip(slopes[1:], results[1:], strict=True):
            pushed = pushed + self.weigh_slope(slope, result, per_unit)
        return pushed

    def weigh_slope(self, slope: Array, result: Comparison, per_unit: np.ndarray) -> Array:
        """Force, in units of the spacing, and stiffness: `(pairs, *spatial, ndim + 1)`.

        `per_unit`, `(pairs, ndim, ndim)`, takes moves in units of the spacing to those along which the slope is.
        """
        engine = backend.of(slope)
        xp, to_slope = engine.xp, np.swapaxes(per_unit, -1, -2)
        found = engine.push(slope, result.derivative, result.curvature, to_slope)
        if found is not None:
            return found

        def push(multiply: Callable, slope: Array, derivative: Array, curvature: Array) -> Array:
            slopes = multiply(xp.unstack(slope))
            stiffness = curvature[..., 0] * sum_products(slopes, slopes)
            return xp.stack([*(derivative[..., 0] * part for part in slopes), stiffness], axis=-1)

        return map_vectors(push, to_slope, slope, result.derivative, result.curvature)

    def find_update(self, displacement: Array, images: Images) -> tuple[Array, Array]:
        """Smooth update in voxels, nowhere longer than the step, and the similarity."""
        pushed, similarity = self.push(displacement, images)
        pushed = self.blur(pushed)
        return self.limit(pushed, self.options.step), similarity

    def blur(self, pushed: Array) -> Array:
        """Force and stiffness, as smooth as an update shall be."""
        return apply_each(_smooth, pushed, self.update_widths)

    def limit(self, pushed: Array, most: float) -> Array:
        """Update in voxels that force and stiffness make, no longer than `most` spacings."""
        engine = backend.of(pushed)
        xp = engine.xp
        damping = _DAMPING * mean_each(xp, pushed[..., -1:]) + 1e-30
        found = engine.limit(pushed, self.from_units, damping=damping, most=most)
        if found is not None:
            return found

        def limit(multiply: Callable, pushed: Array, damping: Array) -> Array:
            *force, stiffness = xp.unstack(pushed)
            stiffness = stiffness + damping[..., 0]
            update = [part / stiffness for part in force]
            length = xp.sqrt(sum_products(update, update))
            share = most / xp.maximum(length, length * 0 + most)
            return xp.stack(multiply([part * share for part in update]), axis=-1)

        return map_vectors(limit, self.from_units, pushed, damping)

    def smooth(self, field: Array) -> Array:
        """The field, as smooth as each level keeps it."""
        return apply_each(_smooth, field, self.field_widths)


def _map_units(pairs: Sequence[tuple[Level, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Of each pair the matrix from fixed to moving voxels, and that which takes moves in units of the spacing there."""
    maps, moves = [], []
    for level, matrix in pairs:
        grid = level.fixed.grid
        maps.append(voxel_matrix(matrix, grid, level.moving.grid))
        moves.append(maps[-1][: grid.ndim, : grid.ndim] @ np.linalg.inv(grid.matrix / level.spacing))
    return np.stack(maps), np.stack(moves)


def _smooth(array: Array, width: tuple[float, ...]) -> Array:
    return backend.of(array).gaussian(array, sigma=width)


def _join_layers(layers: Sequence[Layer]) -> Layer:
    masks = [layer.mask for layer in layers if layer.mask is not None]
    return Layer(join([layer.values for layer in layers]), join(masks) if masks else None, layers[0].grid)


def read_channels(channels: tuple[Array, ...], positions: Array) -> tuple[list[Array], list[Array]]:
    """Each channel at positions, `(pairs, *spatial, 1)`, and its slope there, `(pairs, *spatial, ndim)`."""
    read = [backend.of(positions).sample_with_derivative(channel, positions) for channel in channels]
    return [values for values, _ in read], [slope[..., 0, :] for _, slope in read]


def deform(
    deformation: Deformation, fields: Fields, *, notify: Callable[[int, int, float], None]
) -> tuple[Fields, list[list[float]]]:
    """Return what aligns the images of each pair best at a level, near a first guess.

    A pair that has ended stays as it is. It leaves the stack, but not before half of them have: engines that compile do
    so anew for each size.

    Args:
        deformation: The algorithm, at that level.
        fields: What it searches, to start from.
        notify: Called with the number of the pair, of its iterations done, and its loss.

    Returns:
        What was found, and the losses of each pair, before each of its iterations.
    """
    whole, options, there = deformation, deformation.options, list(range(len(deformation.members)))
    state, images, iterate = deformation.enter(fields), deformation.gather(), _compile(deformation, fields)
    losses: list[list[float]] = [[] for _ in there]
    ended: dict[int, Fields] = {}
    for done in range(options.iterations):
        state, similarity = iterate(state, images)
        for place, alike in enumerate(to_numpy(similarity).tolist()):
            pair = there[place]
            if pair in ended:
                continue
            losses[pair].append(max(0.0, 1 - alike))
            notify(pair, done, losses[pair][-1])
            if done + 1 == options.iterations or _is_enough(losses[pair], options):
                ended[pair] = tuple(take(field, [place]) for field in state)
        places = [place for place, pair in enumerate(there) if pair not in ended]
        if not places:
            break
        if 2 * len(places) <= len(there):
            there, deformation = [there[place] for place in places], deformation.take(places)
            state = tuple(take(field, places) for field in state)
            images, iterate = deformation.gather(), _compile(deformation, fields)
    return whole.leave(tuple(join(parts) for parts in zip(*(ended[k] for k in sorted(ended)), strict=True))), losses


def _compile(deformation: Deformation, fields: Fields) -> Callable[[Fields, Images], tuple[Fields, Array]]:
    """An iteration of a deformation, compiled where the engine of the fields does that."""
    return backend.of(*fields).xp.compile(deformation.advance)


def _is_enough(losses: list[float], options: DeformationOptions) -> bool:
    """Whether another iteration would take too long, or gain too little."""
    if time.perf_counter() > options.deadline:
        return True
    return len(losses) > _PATIENCE and losses[-1 - _PATIENCE] - losses[-1] < options.tolerance * (1 - losses[-1])
