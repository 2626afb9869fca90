"""How much two images tell of one another, whatever their contrast.

The joint histogram counts each voxel through cubic B-spline windows along both intensities, so that it changes smoothly
with the moved image. The similarity is the mutual information in units of the mean entropy, 2 I / (H_f + H_m): it does
not grow, as I does, where an overlap shrinks onto what holds many intensities. Where it is not to be normalised, its
unit is the largest that so many bins allow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from keramorph import backend
from keramorph._typing import Array
from keramorph.solver.similarity.measure import ENOUGH_OVERLAP, Comparison, list_each, sum_each

_SMALLEST = 1e-12
"""Added to every probability, so that each has a logarithm."""


class _Histogram(NamedTuple):
    """Joint probabilities `(batch, bins, bins)`, fixed first; and, each `(batch, 1, 1)`: the sum of the entropies; the
    mutual information; the weight of all voxels; and the share of the fixed image that counts."""

    joint: Array
    entropy: Array
    information: Array
    total: Array
    share: Array


@dataclass(frozen=True)
class MutualInformation:
    """Mutual information of two images in [0, 1].

    Args:
        bins: Of the histogram along each intensity.
        normalised: Whether it is measured by the mean entropy of the images.

    References:
        Mattes et al., PET-CT image registration in the chest using free-form deformations, 2003,
        doi:10.1109/TMI.2003.809072 (the windows); Studholme et al., An overlap invariant entropy measure of 3D medical
        image alignment, 1999, doi:10.1016/S0031-3203(98)00091-0 (the normalisation).
    """

    bins: int = 32
    normalised: bool = True

    def prepare(self, fixed: Array) -> Array:
        """Window of each fixed voxel, `(batch, voxels, bins)`."""
        return self._spread(fixed)

    def measure(self, prepared: Array, moved: Array, weight: Array) -> Array:
        """The similarity of each pair, `(batch,)`."""
        xp = backend.of(moved).xp
        return list_each(xp, self._weigh_up(self._count(xp, prepared, self._spread(moved), weight)))

    def compare(self, prepared: Array, moved: Array, weight: Array) -> Comparison:
        """The similarity, and how it changes with the moved image.

        The curvature is that of the likelihood which mutual information is: of moved intensities scattered about what
        their fixed ones lead to expect.
        """
        engine = backend.of(moved)
        xp = engine.xp
        found = self._count(xp, prepared, self._spread(moved), weight)
        joint, entropy, information = found.joint, found.entropy, found.information
        of_fixed, of_moved = xp.sum(joint, axis=2, keepdims=True), xp.sum(joint, axis=1, keepdims=True)
        # Derivatives of I and of H_f + H_m to each probability; their sums to 1 keep what is constant out.
        gain = xp.log(joint / (of_fixed * of_moved))
        cost = -xp.log(of_fixed * of_moved)
        if self.normalised:
            change = (2 * found.share) * (gain * entropy - information * cost) / (entropy * entropy)
        else:
            change = found.share * gain / math.log(self.bins)
        change = (change - sum_each(xp, change * joint)) / found.total
        gains = xp.reshape(xp.matmul(prepared, change), (*xp.shape(moved)[:-1], self.bins))
        derivative = engine.map_blocks(self._pull, moved, gains) * weight
        scatter = self._scatter(xp, joint, of_fixed)
        unit = entropy if self.normalised else 2 * math.log(self.bins)
        stiffness = 2 * found.share / (unit * scatter * found.total)
        curvature = weight * xp.reshape(stiffness, (-1, *[1] * (len(xp.shape(moved)) - 1)))
        return Comparison(list_each(xp, self._weigh_up(found)), derivative, curvature)

    def _weigh_up(self, found: _Histogram) -> Array:
        if self.normalised:
            return 2 * found.share * found.information / found.entropy
        return found.share * found.information / math.log(self.bins)

    def _count(self, xp: Any, fixed: Array, moved: Array, weight: Array) -> _Histogram:
        column = xp.reshape(weight, (xp.shape(fixed)[0], -1, 1))
        total = sum_each(xp, column) + _SMALLEST
        joint = xp.matmul(xp.transpose(fixed * column, (0, 2, 1)), moved) / total + _SMALLEST
        of_fixed, of_moved = (xp.sum(joint, axis=axis, keepdims=True) for axis in (2, 1))
        separate = _entropy(xp, of_fixed) + _entropy(xp, of_moved)
        enough = ENOUGH_OVERLAP * xp.shape(column)[1]
        share = xp.minimum(total / enough, total * 0 + 1)
        return _Histogram(joint, separate, separate - _entropy(xp, joint), total, share)

    def _scatter(self, xp: Any, joint: Array, of_fixed: Array) -> Array:
        """Mean variance of the moved intensity in [0, 1] among voxels of one fixed intensity."""
        values = (xp.arange(self.bins, dtype=xp.dtype(joint), like=joint) - 1) / (self.bins - 3)
        mean = xp.sum(joint * values, axis=2, keepdims=True) / of_fixed
        return sum_each(xp, joint * (values - mean) * (values - mean))

    def _spread(self, image: Array) -> Array:
        """Window of each voxel, `(batch, voxels, bins)`."""
        engine = backend.of(image)
        windows = engine.map_blocks(lambda image: _window(self._measure_offsets(image)), image)
        return engine.xp.reshape(windows, (engine.xp.shape(image)[0], -1, self.bins))

    def _pull(self, moved: Array, gains: Array) -> Array:
        """Derivative to each intensity, from those to its bins, `(..., bins)`."""
        slopes = _slope(self._measure_offsets(moved)) * (self.bins - 3)
        return backend.of(moved).xp.sum(gains * slopes, axis=-1)[..., None]

    def _measure_offsets(self, image: Array) -> Array:
        """How many bins each intensity `(..., 1)` in [0, 1] lies above each bin, `(..., bins)`."""
        xp = backend.of(image).xp
        place = 1 + (self.bins - 3) * xp.clip(image, 0.0, 1.0)
        return place - xp.arange(self.bins, dtype=xp.dtype(image), like=image)


def _window(offsets: Array) -> Array:
    """Cubic B-spline of the offsets."""
    far, near = _measure_room(offsets)
    return (far * far * far - 4 * near * near * near) / 6


def _slope(offsets: Array) -> Array:
    """Derivative of `_window`."""
    xp = backend.of(offsets).xp
    far, near = _measure_room(offsets)
    sign = xp.where(offsets < 0, offsets * 0 - 1, offsets * 0 + 1)
    return sign * (4 * near**2 - far**2) / 2


def _measure_room(offsets: Array) -> tuple[Array, Array]:
    """How far the offsets are from the outer and the inner end of a window, 0 outside."""
    xp = backend.of(offsets).xp
    distance = xp.abs(offsets)
    return xp.maximum(2 - distance, distance * 0), xp.maximum(1 - distance, distance * 0)


def _entropy(xp: Any, probability: Array) -> Array:
    return -sum_each(xp, probability * xp.log(probability))
