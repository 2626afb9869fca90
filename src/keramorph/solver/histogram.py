"""The contrast of one image given to the other: histogram matching, where it helps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from keramorph import backend
from keramorph._typing import Array
from keramorph.solver.mapping import locate, to_engine, to_numpy, voxel_matrix, weigh
from keramorph.solver.pyramid import Level
from keramorph.solver.similarity import take_channel

_BINS = 256
_MIDDLES = (np.arange(_BINS) + 0.5) / _BINS
"""Bins of a histogram over [0, 1]."""

_CLEARLY = 0.95
"""What the matched image may leave unexplained of the fixed one, as a share of what a straight line would."""

_TRUST = 0.6
"""How far a curve is followed, from the line nearest to it."""


def match_histograms(level: Level, matrix: np.ndarray, displacement: Array) -> Level:
    """Return the level with the moving image's histogram made that of the fixed one, where that brings them nearer.

    A wide window of the local correlation takes one image for a linear function of the other. Scanners, stains and
    exposures bend that line: here it is made straight, by the one rising curve that takes the quantiles of the
    moving image to those of the fixed one. Unlike the mean of the fixed image at each moving intensity, the curve is
    not flattened by what is not aligned yet; but tissues of which one image holds more bend it too, so that it is
    followed a part of the way. Where the curve explains hardly more than a line it is left out.

    Args:
        level: Both images at one spacing, values in [0, 1].
        matrix: Homogeneous matrix in millimetres, applied after the displacement.
        displacement: `(1, *spatial, ndim)` in voxels of its grid at the level, by which the images overlap.

    References:
        Nyul and Udupa, On standardizing the MR image intensity scale, 1999,
        doi:10.1002/(SICI)1522-2594(199912)42:6<1072::AID-MRM11>3.0.CO;2-M.
    """
    fixed, moving = level.bearer.fixed, level.bearer.moving
    positions, inside = locate(voxel_matrix(matrix, fixed.grid, moving.grid), displacement, moving.grid.shape)
    moved = to_numpy(backend.of(positions).sample(moving.values, positions))
    weight = to_numpy(weigh(fixed.mask, moving.mask, positions, inside))
    shown, values = to_numpy(fixed.values), level.moving.values
    changed = [
        _match(take_channel(values, k), moved[..., k], shown[..., k], weight[..., min(k, weight.shape[-1] - 1)])
        for k in range(values.shape[-1])
    ]
    if all(channel is None for channel in changed):
        return level
    joined = [take_channel(values, k) if new is None else new for k, new in enumerate(changed)]
    values = joined[0] if len(joined) == 1 else backend.of(values).xp.concatenate(joined, axis=-1)
    return replace(level, moving=replace(level.moving, values=values))


def _match(values: Array, moved: np.ndarray, fixed: np.ndarray, weight: np.ndarray) -> Array | None:
    """A channel of the moving image with the fixed one's histogram; None where that helps little."""
    joint = _count(moved, fixed, weight)
    curve = _draw_curve(joint)
    straight, bent = (_measure_rest(joint, heights) for heights in (_MIDDLES, curve))
    if bent > _CLEARLY * straight:
        return None
    engine = backend.of(values)
    eased = to_engine(_ease(joint.sum(axis=1), curve)[None, :, None], values)

    def follow(values: Array) -> Array:
        matched = engine.sample(eased, engine.xp.reshape(values, (1, -1, 1)) * _BINS - 0.5)
        return engine.xp.reshape(matched, values.shape)

    return engine.map_blocks(follow, values)


def _count(moved: np.ndarray, fixed: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Share of the weight in each bin of both intensities, the moved one's first."""
    places = [np.clip(image * _BINS, 0, _BINS - 1).astype(np.int32).ravel() for image in (moved, fixed)]
    found = np.bincount(places[0] * _BINS + places[1], weight.ravel(), _BINS * _BINS)
    return found.reshape(_BINS, _BINS) / max(found.sum(), 1e-30)


def _draw_curve(joint: np.ndarray) -> np.ndarray:
    """Where the rising curve that takes the moved histogram to the fixed one leads from the middle of each bin.

    Half of what a bin holds counts as below its middle, so that one background goes to the other.
    """
    (moved, below), (fixed, above) = (_accumulate(joint.sum(axis=axis)) for axis in (1, 0))
    return np.interp(_MIDDLES, moved, np.interp(below, above, fixed))


def _accumulate(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middles of the bins that hold anything, and the share below each."""
    there = histogram > 0
    return _MIDDLES[there], (np.cumsum(histogram) - histogram / 2)[there]


def _ease(moved: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """The curve, straightened as far as it is not trusted: towards the line nearest to it where the moved bins hold."""
    mean, height = moved @ _MIDDLES, moved @ curve
    away = _MIDDLES - mean
    line = height + away * ((moved @ (away * curve)) / max(moved @ away**2, 1e-30))
    return _TRUST * curve + (1 - _TRUST) * line


def _measure_rest(joint: np.ndarray, moved: np.ndarray) -> float:
    """Share of the fixed image's variance that no line leads to from the values which the moved bins stand for."""
    moved, fixed = moved - joint.sum(axis=1) @ moved, _MIDDLES - joint.sum(axis=0) @ _MIDDLES
    variances = (joint.sum(axis=1) @ moved**2) * (joint.sum(axis=0) @ fixed**2)
    return float(1 - (moved @ joint @ fixed) ** 2 / max(variances, 1e-30))
