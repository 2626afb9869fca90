"""The squared local correlation in wide windows, at the cost of much narrower ones.

Windows made of whole blocks, one around each block, have the same moments whether voxels are counted or what blocks add
up to. So have their derivatives: of the voxels in a block, all are in the same windows, and what they do to the
similarity is the same linear function of f, m and 1 for each. What moves with a block therefore pushes by three sums
over it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from keramorph import backend
from keramorph._typing import Array
from keramorph.solver.blocks import BlockSums, add_up, count_voxels
from keramorph.solver.mapping import to_engine
from keramorph.solver.similarity.local_correlation import NOISE, noisy_covariance, noisy_variance
from keramorph.solver.similarity.measure import ENOUGH_OVERLAP, list_each


class FixedWindows(NamedTuple):
    """What the windows around the blocks of the fixed image hold, computed once per level; each is `(1, *blocks, 1)`.

    `share` is one over the number of voxels; `contrast` how much of the variance is no noise, and `total` the sum of
    that over all voxels.
    """

    share: Array
    mean: Array
    variance: Array
    contrast: Array
    total: Array


@dataclass(frozen=True)
class BlockCorrelation:
    """Mean squared correlation in windows made of blocks, in [0, 1], and how it pushes the blocks.

    The noise, the weights and the curvature are those of `LocalCorrelation`.

    Args:
        size: Edges of a window in blocks, odd.

    References:
        Avants et al., Symmetric diffeomorphic image registration with cross-correlation, 2008,
        doi:10.1016/j.media.2007.06.004.
    """

    size: tuple[int, ...]

    def prepare(self, fixed: Array, counts: tuple[int, ...]) -> FixedWindows:
        """The window moments of a fixed image `(1, *spatial, 1)` in so many blocks."""
        engine = backend.of(fixed)
        xp = engine.xp
        voxels = to_engine(count_voxels(tuple(fixed.shape[1:-1]), counts), fixed)
        sums = xp.concatenate([voxels, add_up(fixed, counts), add_up(fixed * fixed, counts)], axis=-1)
        sums = engine.window_sum(sums, size=self.size)
        share = 1 / sums[..., :1]
        mean = sums[..., 1:2] * share
        variance = noisy_variance(xp, sums[..., 2:] * share, mean)
        contrast = 1 - NOISE**2 / variance
        return FixedWindows(share, mean, variance, contrast, xp.sum(voxels * contrast))

    def push(self, fixed: FixedWindows, sums: BlockSums) -> tuple[Array, Array]:
        """Force and stiffness `(1, *blocks, ndim + 1)` of all the voxels in each block, and the similarity, `(1,)`."""
        engine = backend.of(sums.moments)
        xp, ndim = engine.xp, (sums.pushes.shape[-1] - 1) // 3

        def correlate(moments: Array, *others: Array) -> tuple[Array, Array]:
            weight, share, mean, variance, contrast = (other[..., 0] for other in others)
            moved_mean, square, product = (part * share for part in xp.unstack(moments))
            moved_variance = noisy_variance(xp, square, moved_mean)
            covariance = noisy_covariance(xp, product - moved_mean * mean)
            weight = weight * contrast
            to_fixed = weight * share * covariance / (variance * moved_variance)
            to_moved = to_fixed * covariance / moved_variance
            maps = [to_fixed, to_moved, to_fixed * mean - to_moved * moved_mean, weight * share / moved_variance]
            return xp.stack(maps, axis=-1), xp.stack([weight, to_moved * moved_variance / share], axis=-1)

        def add(sums: Array, pushes: Array) -> Array:
            parts = xp.unstack(pushes)
            to_fixed, to_moved, offset, stiffness = xp.unstack(sums)
            force = [
                to_fixed * parts[ndim + d] - to_moved * parts[2 * ndim + d] - offset * parts[d] for d in range(ndim)
            ]
            return xp.stack([part * scale for part in (*force, stiffness * parts[-1])], axis=-1)

        known = (fixed.share, fixed.mean, fixed.variance, fixed.contrast)
        moments = engine.window_sum(sums.moments, size=self.size)
        maps, shown = engine.map_blocks(correlate, moments, sums.weights, *known)
        # What little overlaps must not seem more alike for it.
        total = xp.maximum(xp.sum(shown[..., :1]), ENOUGH_OVERLAP * fixed.total)
        scale = 2 / total
        pushed = engine.map_blocks(add, engine.window_sum(maps, size=self.size), sums.pushes)
        return pushed, list_each(xp, xp.sum(shown[..., 1:]) / total)
