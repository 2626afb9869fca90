"""How well labels overlap, and the derivative to those of one image.

Labels come as one channel each, smoothed by the pyramid like images, so that they overlap in shares of voxels: then two
equal ones must be 1 as well, and the sums below the line are those of squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from keramorph import backend
from keramorph._typing import Array
from keramorph.solver.similarity.measure import TINY, Comparison, list_each, mean_each, measure_share


class _Fixed(NamedTuple):
    """Labels `(batch, *spatial, labels)`, and the sum of the squares of each, `(batch, 1, ..., labels)`."""

    values: Array
    total: Array


@dataclass(frozen=True)
class SoftDice:
    """Mean over the labels of 2 sum(f m) / (sum(f²) + sum(m²)), in [0, 1].

    Labels are `(batch, *spatial, labels)`; so are derivative and curvature.

    References:
        Milletari et al., V-Net: fully convolutional neural networks for volumetric medical image segmentation, 2016,
        doi:10.1109/3DV.2016.79.
    """

    def prepare(self, fixed: Array) -> _Fixed:
        """The fixed labels, and how much there is of each."""
        return _Fixed(fixed, _sum(backend.of(fixed).xp, fixed * fixed))

    def measure(self, prepared: _Fixed, moved: Array, weight: Array) -> Array:
        """The similarity of each pair, `(batch,)`."""
        xp = backend.of(moved).xp
        share, overlap, _ = self._overlap(xp, prepared, moved, weight)
        return _mean(xp, share * overlap)

    def compare(self, prepared: _Fixed, moved: Array, weight: Array) -> Comparison:
        """The similarity, and how it changes with the moved labels."""
        xp = backend.of(moved).xp
        share, overlap, both = self._overlap(xp, prepared, moved, weight)
        curvature = weight * (2 * share / (both * moved.shape[-1]))
        return Comparison(_mean(xp, share * overlap), curvature * (prepared.values - overlap * moved), curvature)

    def _overlap(self, xp: Any, fixed: _Fixed, moved: Array, weight: Array) -> tuple[Array, Array, Array]:
        """Of each label the share that counts, the overlap, and what it is measured by."""
        shown = _sum(xp, weight * fixed.values * fixed.values)
        both = shown + _sum(xp, weight * moved * moved) + TINY
        return measure_share(xp, shown, fixed.total), 2 * _sum(xp, weight * fixed.values * moved) / both, both


def _sum(xp: Any, array: Array) -> Array:
    return xp.sum(array, axis=tuple(range(1, len(array.shape) - 1)), keepdims=True)


def _mean(xp: Any, each: Array) -> Array:
    """Mean over the labels, `(batch,)`."""
    return list_each(xp, mean_each(xp, each))
