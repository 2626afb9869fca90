"""The layers of a small network on NumPy arrays, channels last: no framework is imported for so little work."""

from __future__ import annotations

from itertools import product

import numpy as np

_SLOPE = 0.2
"""Of the leaky ReLU."""

_ROWS = 4096
"""Voxels that are convolved at once: their sums stay in the cache of a core."""


def convolve(image: np.ndarray, kernel: np.ndarray, bias: np.ndarray, *, activate: bool = True) -> np.ndarray:
    """Return the convolution `(1, *spatial, filters)` of an image, zero outside its grid, and its leaky ReLU.

    Voxels of the framed grid lie one after the other, so that a neighbour is a fixed number of rows away: each tap of
    the kernel is one product of matrices, of rows as they lie, and none is copied.

    Args:
        image: `(1, *spatial, channels)` float32.
        kernel: `(*sizes, channels, filters)`, of odd sizes.
        bias: `(filters,)`.
        activate: Whether the leaky ReLU follows.
    """
    sizes, filters = kernel.shape[:-2], kernel.shape[-1]
    margins = [size // 2 for size in sizes]
    framed = np.pad(image[0], [*((m, m) for m in margins), (0, 0)])
    shape = framed.shape[:-1]
    strides = np.cumprod([1, *shape[:0:-1]])[::-1]
    rows = framed.reshape(-1, framed.shape[-1])
    shifts = [int(np.dot(tap, strides)) for tap in product(*map(range, sizes))]
    taps = kernel.reshape(-1, *kernel.shape[-2:])
    found = np.empty((len(rows), filters), np.float32)
    count = len(rows) - shifts[-1]
    part = np.empty((_ROWS, filters), np.float32)
    for start in range(0, count, _ROWS):
        stop = min(start + _ROWS, count)
        total = found[start:stop]
        total[:] = bias
        for shift, tap in zip(shifts, taps, strict=True):
            total += np.matmul(rows[start + shift : stop + shift], tap, out=part[: stop - start])
        if activate:
            np.maximum(total, _SLOPE * total, out=total)
    inner = tuple(slice(n) for n in image.shape[1:-1])
    return found.reshape(*shape, filters)[inner][None]


def halve(image: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return the leaky ReLU of a convolution 4 wide in steps of 2, `(1, *spatial / 2, filters)`.

    Args:
        image: `(1, *spatial, channels)` float32, of even sizes.
        kernel: `(4, ..., channels, filters)`.
        bias: `(filters,)`.
    """
    ndim = image.ndim - 2
    framed = np.pad(image[0], [*[(1, 1)] * ndim, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(framed, (4,) * ndim, axis=tuple(range(ndim)))
    windows = np.moveaxis(windows[(slice(None, None, 2),) * ndim], ndim, -1)
    columns = windows.reshape(-1, kernel[..., 0].size)
    total = columns @ kernel.reshape(-1, kernel.shape[-1]) + bias
    np.maximum(total, _SLOPE * total, out=total)
    return total.reshape(1, *windows.shape[:ndim], -1)


def pool(features: np.ndarray) -> np.ndarray:
    """Return the maximum of each 2 voxels along each axis.

    Args:
        features: `(1, *spatial, channels)` of even sizes.
    """
    for axis in range(1, features.ndim - 1):
        halves = np.moveaxis(features, axis, 0)
        features = np.moveaxis(np.maximum(halves[::2], halves[1::2]), 0, axis)
    return features


def grow(features: np.ndarray) -> np.ndarray:
    """Return features on twice as many voxels along each axis, each one repeated.

    Args:
        features: `(1, *spatial, channels)`.
    """
    for axis in range(1, features.ndim - 1):
        features = features.repeat(2, axis)
    return features


def standardize(features: np.ndarray) -> np.ndarray:
    """Return each channel less its mean over the image, divided by its standard deviation there.

    Args:
        features: `(1, *spatial, channels)`.
    """
    axes = tuple(range(features.ndim - 1))
    offset = features - features.mean(axis=axes)
    return offset / np.sqrt(np.square(offset).mean(axis=axes) + 1e-5)


def correlate(fixed: np.ndarray, moving: np.ndarray, radius: int) -> np.ndarray:
    """Return how well each voxel's features match those of each voxel near it, see `networks.Correlation`.

    Args:
        fixed: Features `(1, *spatial, channels)`.
        moving: Features of the other image, likewise.
        radius: How many voxels away along each axis a match may lie.
    """
    sizes, channels = fixed.shape[1:-1], fixed.shape[-1]
    framed = np.pad(moving, [(0, 0), *[(radius, radius)] * len(sizes), (0, 0)])
    volume = np.empty((*fixed.shape[:-1], (2 * radius + 1) ** len(sizes)), np.float32)
    for index, starts in enumerate(product(range(2 * radius + 1), repeat=len(sizes))):
        window = (slice(None), *(slice(first, first + size) for first, size in zip(starts, sizes, strict=True)))
        np.einsum("...c,...c->...", fixed, framed[window], out=volume[..., index])
    volume /= channels
    return volume
