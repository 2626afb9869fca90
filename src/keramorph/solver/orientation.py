"""Images with their axes laid along those of space, so that no result depends on how a file lists its voxels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from keramorph import backend
from keramorph._typing import Array
from keramorph.solver.pyramid import Layer
from keramorph.space import Grid


@dataclass(frozen=True)
class Orientation:
    """Which axis of an array runs nearest to which axis of space, and which way.

    Laid out straight, an array's last axis runs along x, the one before it along y, and so on, each the way that its
    coordinate grows: as far as the axes of the grid do, which may lie at any angle to them.

    Args:
        order: Axes of the array in the order that they have when it lies straight.
        flipped: Whether each of the axes, in that order, runs the other way.
    """

    order: tuple[int, ...]
    flipped: tuple[bool, ...]

    @classmethod
    def of(cls, grid: Grid) -> Orientation:
        """The orientation of the arrays on a grid."""
        along = (grid.matrix / grid.spacing)[::-1]
        lines = range(grid.ndim)
        # The first one that is best: by rounding alone no two of them are told apart.
        order = max(permutations(lines), key=lambda axes: round(float(np.sum(along[lines, axes] ** 2)), 6))
        return cls(order, tuple(bool(along[line, axis] < 0) for line, axis in zip(lines, order, strict=True)))

    def straighten(self, layer: Layer) -> Layer:
        """A layer of this orientation, laid out straight."""
        mask = None if layer.mask is None else self.straighten_array(layer.mask)
        return Layer(self.straighten_array(layer.values), mask, self.straighten_grid(layer.grid))

    def straighten_grid(self, grid: Grid) -> Grid:
        """A grid of this orientation, laid out straight."""
        ndim = grid.ndim
        affine = np.eye(ndim + 1)
        affine[:ndim, ndim] = grid.affine[:ndim, ndim]
        for line, (axis, flipped) in enumerate(zip(self.order, self.flipped, strict=True)):
            step = grid.affine[:ndim, axis]
            affine[:ndim, line] = -step if flipped else step
            affine[:ndim, ndim] += step * (grid.shape[axis] - 1) if flipped else 0
        return Grid(tuple(grid.shape[axis] for axis in self.order), affine, grid.fastest)

    def straighten_array(self, array: Array) -> Array:
        """An array `(1, *spatial, channels)` of this orientation, laid out straight."""
        if self._is_straight():
            return array
        xp = backend.of(array).xp
        turned = xp.transpose(array, (0, *(axis + 1 for axis in self.order), len(self.order) + 1))
        return xp.flip(turned, self._list_flipped())

    def straighten_field(self, field: Array) -> Array:
        """A displacement `(1, *spatial, ndim)` in voxels of this orientation, laid out straight."""
        return field if self._is_straight() else self._change(self.straighten_array(field), self.order, self.flipped)

    def restore_field(self, field: Array) -> Array:
        """A displacement that lies straight, laid out in this orientation."""
        if self._is_straight():
            return field
        xp = backend.of(field).xp
        back = tuple(int(line) for line in np.argsort(self.order))
        turned = xp.flip(field, self._list_flipped())
        turned = xp.transpose(turned, (0, *(line + 1 for line in back), len(back) + 1))
        return self._change(turned, back, tuple(self.flipped[line] for line in back))

    def _is_straight(self) -> bool:
        return self.order == tuple(range(len(self.order))) and not any(self.flipped)

    def _list_flipped(self) -> list[int]:
        return [line + 1 for line, flipped in enumerate(self.flipped) if flipped]

    @staticmethod
    def _change(field: Array, order: tuple[int, ...], flipped: tuple[bool, ...]) -> Array:
        """Components in another order, some of them the other way."""
        xp = backend.of(field).xp
        parts = xp.unstack(field)
        return xp.stack([-parts[k] if turn else parts[k] for k, turn in zip(order, flipped, strict=True)], axis=-1)
