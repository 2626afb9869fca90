"""How nearly the edges of two images run the same way, whatever their contrast, and the derivative to one of them.

The squared cosine between the gradients is c(x) = (|p| + e)² / ((g_f + e)(g_m + e)), where p is their inner product, g
their squared lengths, and e the square of a slope below which an edge counts as noise. In the paper there is no e
beside p: then an edge of the same direction would still gain by becoming sharper. A voxel counts by the share of the
fixed image's squared slope that is not noise. The derivative comes by the adjoint of the differences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from keramorph import backend
from keramorph._typing import Array
from keramorph.backend.lines import cut
from keramorph.ops.vectors import sum_products
from keramorph.solver.similarity.measure import ENOUGH_OVERLAP, Comparison, list_each, sum_each


class _Edges(NamedTuple):
    """Gradient of the fixed image, one array for each axis; its squared length with the noise; the weight of a voxel;
    and the sum of the weights. Each array is `(batch, *spatial, 1)`."""

    slopes: tuple[Array, ...]
    square: Array
    weight: Array
    total: Array


@dataclass(frozen=True)
class GradientFields:
    """Mean squared cosine between the gradients of two images, in [0, 1].

    Args:
        spacing: Of the voxels along each axis, in those of the level.
        noise: Slope of an edge that counts as none, in shares of an image's range by spacing.

    References:
        Haber and Modersitzki, Intensity gradient based registration and fusion of multi-modal images, 2006,
        doi:10.1007/11866763_89.
    """

    spacing: tuple[float, ...]
    noise: float = 0.02

    def prepare(self, fixed: Array) -> _Edges:
        """The edges of the fixed image."""
        xp = backend.of(fixed).xp
        slopes, square = self._differentiate(xp, fixed)
        weight = 1 - self.noise**2 / square
        return _Edges(slopes, square, weight, sum_each(xp, weight))

    def measure(self, prepared: _Edges, moved: Array, weight: Array) -> Array:
        """The similarity of each pair, `(batch,)`."""
        xp = backend.of(moved).xp
        slopes, square = self._differentiate(xp, moved)
        product = self._multiply(xp, prepared, slopes)
        found = self._weigh(xp, prepared, weight) * product * product / (prepared.square * square)
        return list_each(xp, sum_each(xp, found))

    def compare(self, prepared: _Edges, moved: Array, weight: Array) -> Comparison:
        """The similarity, and how it changes with the moved image.

        The curvature is that of the sum of squared sines, its part along the moved edges, which is 0, left in.
        """
        xp = backend.of(moved).xp
        slopes, square = self._differentiate(xp, moved)
        product = self._multiply(xp, prepared, slopes)
        by_moved, by_fixed = product / square, product / prepared.square
        weight = self._weigh(xp, prepared, weight)
        stiffness = 2 * weight / square
        force = stiffness * by_fixed
        derivative, curvature = moved * 0, moved * 0
        for axis, (own, other, step) in enumerate(zip(slopes, prepared.slopes, self.spacing, strict=True), start=1):
            after, before = _look_around(xp, force * (other - own * by_moved), axis, beyond=-1)
            derivative = derivative + (before - after) * (0.5 / step)
            after, before = _look_around(xp, stiffness, axis)
            curvature = curvature + (before + after) * (0.25 / step**2)
        return Comparison(list_each(xp, sum_each(xp, weight * by_fixed * by_moved)), derivative, curvature)

    def _differentiate(self, xp: Any, image: Array) -> tuple[tuple[Array, ...], Array]:
        """Slopes along each axis, by central differences with the edge repeated; and their squared sum with noise."""
        pairs = [_look_around(xp, image, axis) for axis in range(1, len(self.spacing) + 1)]
        slopes = tuple((after - before) * (0.5 / s) for (after, before), s in zip(pairs, self.spacing, strict=True))
        return slopes, sum_products(slopes, slopes) + self.noise**2

    def _multiply(self, xp: Any, fixed: _Edges, slopes: tuple[Array, ...]) -> Array:
        """Inner product of the gradients, away from zero by the noise."""
        product = sum_products(fixed.slopes, slopes)
        return xp.where(product < 0, product - self.noise**2, product + self.noise**2)

    def _weigh(self, xp: Any, fixed: _Edges, weight: Array) -> Array:
        """What each voxel adds to the similarity."""
        weight = weight * fixed.weight
        return weight / xp.maximum(sum_each(xp, weight), ENOUGH_OVERLAP * fixed.total)


def _look_around(xp: Any, array: Array, axis: int, *, beyond: float = 1.0) -> tuple[Array, Array]:
    """What lies after and before each voxel along an axis; outside, what lies at the edge, times `beyond`.

    Differences with the edge repeated have differences with the edge negated, taken the other way, for their adjoint.
    """
    count = array.shape[axis]
    first, last = cut(array, axis, 0, 1) * beyond, cut(array, axis, count - 1, count) * beyond
    longer = xp.concatenate([first, array, last], axis=axis)
    return cut(longer, axis, 2, count + 2), cut(longer, axis, 0, count)
