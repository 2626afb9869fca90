"""Large images part by part: overlapping tiles, blended by windows that sum to one everywhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import reduce

import numpy as np

ALIGNED = 16
"""Tiles begin at multiples of so many voxels, but for the last one, which ends with the image: poolings then fall on
the voxels that they fall on in the whole image."""

Run = Callable[[np.ndarray, np.ndarray], np.ndarray]


def find_overlap(tile: int) -> int:
    """Voxels that neighbouring tiles share at least: a quarter of their edge."""
    return max(ALIGNED, tile // 4 // ALIGNED * ALIGNED)


def list_starts(count: int, tile: int) -> list[int]:
    """Return where the tiles along an axis begin, all of one size.

    Args:
        count: Voxels along the axis.
        tile: Edge of a tile, a multiple of `ALIGNED`.
    """
    if count <= tile:
        return [0]
    return [*range(0, count - tile, tile - find_overlap(tile)), count - tile]


def make_windows(count: int, tile: int) -> np.ndarray:
    """Return how much each tile counts along an axis, `(tiles, count)`; each voxel's weights sum to 1.

    Where two tiles overlap, the outer quarter of either, which is short of what lies beyond, does not count, and in
    between one fades into the other along a squared cosine.

    Args:
        count: Voxels along the axis.
        tile: Edge of a tile, a multiple of `ALIGNED`.
    """
    starts, overlap = list_starts(count, tile), find_overlap(tile)
    margin = overlap // 4
    places, windows = np.arange(count), np.ones((len(starts), count))
    for window, start in zip(windows, starts, strict=True):
        ends = []
        if start > 0:
            ends.append(places - start)
        if start + tile < count:
            ends.append(start + tile - 1 - places)
        for depth in ends:
            share = np.clip((depth + 0.5 - margin) / (overlap - 2 * margin), 0, 1)
            window *= np.sin(np.pi / 2 * share) ** 2
    return windows / windows.sum(axis=0)


def predict_by_tiles(run: Run, fixed: np.ndarray, moving: np.ndarray, *, tile: int) -> np.ndarray:
    """Return the displacement `(1, *spatial, ndim)` that a network finds of images tile by tile.

    Args:
        run: The network: from two images `(1, *spatial, channels)` to their displacement in voxels.
        fixed: Fixed image `(1, *spatial, channels)`.
        moving: Moving image, likewise.
        tile: Longest edge of a tile in voxels, a multiple of `ALIGNED`.
    """
    shape = fixed.shape[1:-1]
    starts = [list_starts(n, tile) for n in shape]
    windows = [make_windows(n, tile) for n in shape]
    total = np.zeros((1, *shape, len(shape)), np.float32)
    for places in itertools.product(*(range(len(axis)) for axis in starts)):
        first = [axis[place] for axis, place in zip(starts, places, strict=True)]
        here = tuple(slice(s, min(s + tile, n)) for s, n in zip(first, shape, strict=True))
        found = run(*(image[(slice(None), *here)] for image in (fixed, moving)))
        lines = [axis[place, part] for axis, place, part in zip(windows, places, here, strict=True)]
        weight = reduce(np.multiply, np.ix_(*lines)).astype(np.float32)[..., None]
        total[(slice(None), *here)] += weight * found
    return total
