"""How alike two images are, window by window, and the derivative to one of them.

The squared local correlation is c(x) = (|r| + e)² / ((v_f + e)(v_m + e)), where r is the covariance and v the variances
of the two images in a window around x, and e is the square of a noise level below which contrast does not count: it
acts like noise that both images share. Without it in the numerator, equal images would still gain by a warp that raises
the contrast of flat regions. A window counts by the share of the fixed image's variance in it that is not noise: where
the fixed image is flat there is nothing to match. Squared, the correlation does not ask which of two tissues is the
brighter one. The value comes from five window moments and the derivative from three more window sums, because a box
window is its own adjoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from keramorph import backend
from keramorph._typing import Array
from keramorph.solver.similarity.measure import ENOUGH_OVERLAP, Comparison, list_each, mean_each, sum_each

NOISE = 0.01
"""Contrast that counts as none, as a share of an image's range."""


class FixedMoments(NamedTuple):
    """What the windows of the fixed image hold, computed once per level; each is `(batch, *spatial, 1)`.

    `values` alone are there where the engine has a fused kernel, which takes the windows by itself.
    """

    values: Array
    share: Array | None = None
    mean: Array | None = None
    variance: Array | None = None
    weight: Array | None = None


@dataclass(frozen=True)
class LocalCorrelation:
    """Mean squared correlation in windows, in [0, 1].

    Args:
        size: Edges of a window in voxels, odd.
        squared: Whether the correlation is squared; otherwise it keeps its sign, and counts from 0 (the other way
            round) by way of 0.5 (none) to 1.

    References:
        Avants et al., Symmetric diffeomorphic image registration with cross-correlation, 2008,
        doi:10.1016/j.media.2007.06.004.
    """

    size: tuple[int, ...]
    squared: bool = True

    def prepare(self, fixed: Array) -> FixedMoments:
        """The window moments of the fixed image."""
        engine = backend.of(fixed)
        moments = FixedMoments(fixed - mean_each(engine.xp, fixed))
        return moments if self.squared and engine.fuses_lncc(fixed) else self._measure_windows(moments)

    def measure(self, prepared: FixedMoments, moved: Array, weight: Array) -> Array:
        """The similarity of each pair, `(batch,)`."""
        fused = self._fuse(prepared, moved, weight)
        if fused is not None:
            return fused.similarity
        xp, moments = backend.of(moved).xp, self._measure_windows(prepared)
        _, _, variance, covariance = self._measure_moved(moments, moved)
        product = moments.variance * variance
        if self.squared:
            correlation = covariance * covariance / product
        else:
            correlation = 0.5 + 0.5 * covariance / xp.sqrt(product)
        weight = weight * moments.weight
        return list_each(xp, sum_each(xp, weight * correlation) / _total(xp, weight, moments))

    def compare(self, prepared: FixedMoments, moved: Array, weight: Array) -> Comparison:
        """The similarity, and how it changes with the moved image."""
        fused = self._fuse(prepared, moved, weight)
        if fused is not None:
            return fused
        engine, moments = backend.of(moved), self._measure_windows(prepared)
        xp = engine.xp
        centred, mean, variance, covariance = self._measure_moved(moments, moved)
        weight = weight * moments.weight
        total = _total(xp, weight, moments)
        by_moved = covariance / variance
        by_fixed = covariance / moments.variance
        if self.squared:
            similarity = sum_each(xp, weight * by_fixed * by_moved) / total
            share = weight * moments.share * (2 / total)
            to_fixed = share * by_fixed / variance
        else:
            root = xp.sqrt(moments.variance * variance)
            similarity = sum_each(xp, weight * (0.5 + 0.5 * covariance / root)) / total
            share = weight * moments.share * (0.5 / total)
            to_fixed = share / root
        to_moved = to_fixed * by_moved
        offset = to_fixed * moments.mean - to_moved * mean
        maps = xp.concatenate([to_fixed, to_moved, offset, share / variance], axis=-1)
        sums = engine.window_sum(maps, size=self.size)
        derivative = moments.values * sums[..., :1] - centred * sums[..., 1:2] - sums[..., 2:3]
        return Comparison(list_each(xp, similarity), derivative, sums[..., 3:])

    def _fuse(self, moments: FixedMoments, moved: Array, weight: Array) -> Comparison | None:
        """What `compare` returns, by a kernel; None where there is none."""
        if not self.squared:
            return None
        engine = backend.of(moved)
        fused = engine.lncc(moments.values, moved, weight, size=self.size, floor=NOISE**2, least=ENOUGH_OVERLAP)
        return None if fused is None else Comparison(*fused)

    def _measure_windows(self, moments: FixedMoments) -> FixedMoments:
        """The moments with those of the windows, if they are not there yet."""
        if moments.share is not None:
            return moments
        values, engine = moments.values, backend.of(moments.values)
        xp = engine.xp
        sums = engine.window_sum(xp.concatenate([values * 0 + 1, values, values * values], axis=-1), size=self.size)
        share = 1 / sums[..., :1]
        mean = sums[..., 1:2] * share
        variance = noisy_variance(xp, sums[..., 2:] * share, mean)
        return FixedMoments(values, share, mean, variance, 1 - NOISE**2 / variance)

    def _measure_moved(self, moments: FixedMoments, moved: Array) -> tuple[Array, Array, Array, Array]:
        """Moved image without its mean; its window mean, variance and covariance with the fixed one, noise included."""
        engine = backend.of(moved)
        xp = engine.xp
        centred = moved - mean_each(xp, moved)
        products = [centred, centred * centred, centred * moments.values]
        sums = engine.window_sum(xp.concatenate(products, axis=-1), size=self.size) * moments.share
        mean = sums[..., :1]
        covariance = sums[..., 2:] - mean * moments.mean
        if self.squared:
            covariance = noisy_covariance(xp, covariance)
        else:
            covariance = covariance + NOISE**2
        return centred, mean, noisy_variance(xp, sums[..., 1:2], mean), covariance


def noisy_covariance(xp: Any, covariance: Array) -> Array:
    """Covariance and that of the noise, which both images share whichever is the brighter one."""
    return xp.where(covariance < 0, covariance - NOISE**2, covariance + NOISE**2)


def noisy_variance(xp: Any, square: Array, mean: Array) -> Array:
    """Variance plus that of the noise; rounding can take the difference below zero, never the sum."""
    difference = square - mean * mean
    return xp.where(difference > 0, difference, difference * 0) + NOISE**2


def _total(xp: Any, weight: Array, moments: FixedMoments) -> Array:
    """Weight of all windows, but no less than that of half of them."""
    return xp.maximum(sum_each(xp, weight), ENOUGH_OVERLAP * sum_each(xp, moments.weight))
