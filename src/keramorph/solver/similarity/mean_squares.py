"""How alike two images of one scale of intensities are, voxel by voxel, and the derivative to one of them.

The similarity is V / (V + E), where E is the sum of squared differences and V that of the fixed image to its mean: 1
where the images are equal, a half where one tells no more of the other than its mean does. E alone would be smallest
where only background overlaps; there V is small, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from keramorph import backend
from keramorph._typing import Array
from keramorph.solver.similarity.measure import TINY, Comparison, list_each, mean_each, measure_share, sum_each


class _Fixed(NamedTuple):
    """Values, their squared differences to the mean, `(batch, *spatial, 1)`, and the sum of these."""

    values: Array
    square: Array
    total: Array


@dataclass(frozen=True)
class MeanSquares:
    """1 minus the squared difference as a share of itself and the fixed image's variance, in [0, 1]."""

    def prepare(self, fixed: Array) -> _Fixed:
        """What the fixed image shows, voxel by voxel."""
        xp = backend.of(fixed).xp
        centred = fixed - mean_each(xp, fixed)
        return _Fixed(fixed, centred * centred, sum_each(xp, centred * centred))

    def measure(self, prepared: _Fixed, moved: Array, weight: Array) -> Array:
        """The similarity of each pair, `(batch,)`."""
        xp = backend.of(moved).xp
        share, shown, both = self._add_up(xp, prepared, moved - prepared.values, weight)
        return list_each(xp, share * shown / both)

    def compare(self, prepared: _Fixed, moved: Array, weight: Array) -> Comparison:
        """The similarity, and how it changes with the moved image."""
        xp, difference = backend.of(moved).xp, moved - prepared.values
        share, shown, both = self._add_up(xp, prepared, difference, weight)
        curvature = weight * (2 * share * shown / (both * both))
        return Comparison(list_each(xp, share * shown / both), -curvature * difference, curvature)

    def _add_up(self, xp: Any, fixed: _Fixed, difference: Array, weight: Array) -> tuple[Array, Array, Array]:
        """Share of the fixed image that counts; what it shows there; and that with what differs."""
        shown = sum_each(xp, weight * fixed.square)
        both = shown + sum_each(xp, weight * difference * difference) + TINY
        return measure_share(xp, shown, fixed.total), shown, both
