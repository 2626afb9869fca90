"""How nearly one image is a straight line of the other's intensities, and the derivative to one of them.

The squared correlation is (|r| + e)² / ((v_f + e)(v_m + e)), where r is the covariance, v the variances over all of the
overlap, and e the noise that both share, as in `local_correlation.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from keramorph import backend
from keramorph._typing import Array
from keramorph.solver.similarity.local_correlation import NOISE
from keramorph.solver.similarity.measure import TINY, Comparison, list_each, mean_each, measure_share, sum_each


class _Fixed(NamedTuple):
    """Values without their mean, `(batch, *spatial, 1)`, and the sum of their squares."""

    values: Array
    total: Array


class _Moments(NamedTuple):
    """Both images without their means, `(batch, *spatial, 1)`; of each pair: moments with noise, weight, and share."""

    fixed: Array
    moved: Array
    fixed_variance: Array
    variance: Array
    covariance: Array
    total: Array
    share: Array


@dataclass(frozen=True)
class Correlation:
    """Squared correlation of two images, in [0, 1]."""

    def prepare(self, fixed: Array) -> _Fixed:
        """The fixed image without its mean."""
        xp = backend.of(fixed).xp
        centred = fixed - mean_each(xp, fixed)
        return _Fixed(centred, sum_each(xp, centred * centred))

    def measure(self, prepared: _Fixed, moved: Array, weight: Array) -> Array:
        """The similarity of each pair, `(batch,)`."""
        xp = backend.of(moved).xp
        return list_each(xp, self._correlate(self._measure_moments(xp, prepared, moved, weight)))

    def compare(self, prepared: _Fixed, moved: Array, weight: Array) -> Comparison:
        """The similarity, and how it changes with the moved image."""
        xp = backend.of(moved).xp
        found = self._measure_moments(xp, prepared, moved, weight)
        curvature = weight * (2 * found.share / (found.total * found.variance))
        slope = found.covariance / found.variance
        residual = (found.fixed - found.moved * slope) * (found.covariance / found.fixed_variance)
        return Comparison(list_each(xp, self._correlate(found)), curvature * residual, curvature)

    def _correlate(self, found: _Moments) -> Array:
        return found.share * found.covariance * found.covariance / (found.fixed_variance * found.variance)

    def _measure_moments(self, xp: Any, known: _Fixed, moved: Array, weight: Array) -> _Moments:
        noise, total = NOISE**2, sum_each(xp, weight) + TINY
        fixed = known.values - sum_each(xp, weight * known.values) / total
        moved = moved - sum_each(xp, weight * moved) / total
        shown = sum_each(xp, weight * fixed * fixed)
        covariance = sum_each(xp, weight * fixed * moved) / total
        covariance = xp.where(covariance < 0, covariance - noise, covariance + noise)
        variance = sum_each(xp, weight * moved * moved) / total + noise
        share = measure_share(xp, shown, known.total)
        return _Moments(fixed, moved, shown / total + noise, variance, covariance, total, share)
