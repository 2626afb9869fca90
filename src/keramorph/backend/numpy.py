"""NumPy: the portable primitives on blocks that fit the cache, several at a time. No gradients, no framework."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np

from keramorph._typing import Array
from keramorph.backend import portable
from keramorph.backend.engine import Engine
from keramorph.backend.namespace import Namespace
from keramorph.backend.rule import Rule

_BLOCK = 1 << 14
"""Positions worked on at a time: a dozen float32 temporaries of this size stay in a core's second-level cache."""

_SMALL = 1 << 16
"""Positions up to which threads cost more than they save: they wait for one another between NumPy's short calls."""


class _Namespace(Namespace):
    def gather_rows(self, rows: Array, index: Array) -> Array:
        # Laid out channel by channel, so that arithmetic with one weight per position runs along positions: an inner
        # loop over two or three channels costs NumPy three times as much.
        channels, flat = rows.shape[-1], rows.reshape(-1)
        values = np.empty((channels, *index.shape), dtype=rows.dtype)
        for channel in range(channels):
            # The indices are folded into range already; any mode but "raise" spares a buffer.
            np.take(flat, index if channels == 1 else index * channels + channel, out=values[channel], mode="clip")
        return np.moveaxis(values, 0, -1)

    def pad(self, x: Array, widths: Sequence[tuple[int, int]]) -> Array:
        # np.pad spends more time on its arguments than on a block.
        padded = np.zeros([n + a + b for n, (a, b) in zip(x.shape, widths, strict=True)], dtype=x.dtype)
        padded[tuple(slice(a, a + n) for n, (a, _) in zip(x.shape, widths, strict=True))] = x
        return padded

    def scatter_add_rows(self, rows: Array, index: Array, values: Array) -> Array:
        flat, columns = np.ravel(index), np.reshape(values, (-1, rows.shape[-1]))
        # bincount adds in float64, far faster than ufunc.at.
        for channel in range(rows.shape[-1]):
            weights = np.bincount(flat, columns[:, channel], minlength=rows.shape[0])
            rows[:, channel] += weights.astype(rows.dtype)
        return rows


xp = _Namespace(np)


class NumpyEngine(Engine):
    """Primitives on NumPy arrays."""

    name = "numpy"
    xp = xp

    def _sample(self, image: Array, coordinates: Array, rule: Rule) -> Array:
        values = np.empty((*coordinates.shape[:-1], image.shape[-1]), dtype=image.dtype)

        def work(batch: slice, rows: slice) -> None:
            values[batch, rows] = portable.sample(xp, image[batch], coordinates[batch, rows], rule, rows.start)

        _run(work, coordinates.shape)
        return values

    def _sample_with_derivative(self, image: Array, coordinates: Array, rule: Rule) -> tuple[Array, Array]:
        values = np.empty((*coordinates.shape[:-1], image.shape[-1]), dtype=image.dtype)
        slopes = np.empty((*values.shape, coordinates.shape[-1]), dtype=coordinates.dtype)

        def work(batch: slice, rows: slice) -> None:
            values[batch, rows], slopes[batch, rows] = portable.sample_with_derivative(
                xp, image[batch], coordinates[batch, rows], rule, rows.start
            )

        _run(work, coordinates.shape)
        return values, slopes

    def _window_sum(self, array: Array, size: tuple[int, ...]) -> Array:
        return self._filter(array, size, 1, portable.window_sum)

    def _gaussian(self, array: Array, sigma: tuple[float, ...]) -> Array:
        return self._filter(array, sigma, 0.0, portable.gaussian)

    def _filter(self, array: Array, width: tuple, idle: Any, function: Callable) -> Array:
        """Filter one axis after the other, each in blocks cut along another axis."""
        for axis, extent in enumerate(width):
            if extent == idle:
                continue
            alone = tuple(extent if k == axis else idle for k in range(len(width)))
            array = _filter_axis(array, axis + 1, alone, function)
        return array


def set_threads(count: int | None) -> None:
    """Let NumPy primitives use `count` threads; None for the default: `KERAMORPH_THREADS`, or all cores."""
    global _threads
    _threads = count
    _pool.cache_clear()


def threads() -> int:
    """Number of threads that NumPy primitives use."""
    if _threads is not None:
        return _threads
    named = os.environ.get("KERAMORPH_THREADS", "")
    if named.isdigit() and int(named):
        return int(named)
    # The cores this process may use, where the system can tell: a container often has fewer than the machine.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_threads: int | None = None


@lru_cache(maxsize=1)
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="keramorph")


def _map(work: Callable[..., None], blocks: list[tuple]) -> None:
    """Run the blocks, in threads where there are several; the result never depends on how many."""

    def guarded(block: tuple) -> None:
        # NaN coordinates have no integer part; what they index is never used.
        with np.errstate(invalid="ignore", over="ignore"):
            work(*block)

    if len(blocks) == 1 or threads() == 1:
        for block in blocks:
            guarded(block)
    else:
        list(_pool(threads()).map(guarded, blocks))


def _run(work: Callable[[slice, slice], None], shape: tuple[int, ...]) -> None:
    """Call `work(batch, rows)` for blocks of a field of coordinates `(batch, rows, ..., ndim)`."""
    if math.prod(shape[:-1]) <= _SMALL:
        _map(work, [(slice(0, shape[0]), slice(0, shape[1]))])
        return
    step = max(1, _BLOCK // max(1, math.prod(shape[2:-1])))
    _map(work, [(slice(b, b + 1), rows) for b in range(shape[0]) for rows in _steps(shape[1], step)])


def _steps(count: int, step: int) -> Iterator[slice]:
    return (slice(first, min(first + step, count)) for first in range(0, count, step))


def _filter_axis(array: Array, axis: int, width: tuple, function: Callable) -> Array:
    """Filter along one axis, in blocks cut along the first other spatial axis, batch entry by batch entry."""
    if array.size <= _SMALL:
        return function(xp, array, width)
    across = 1 if axis != 1 else 2
    if across == array.ndim - 1:
        return function(xp, array, width)
    result = np.empty_like(array)
    step = max(1, _BLOCK * array.shape[across] // max(1, math.prod(array.shape[1:])))

    def work(batch: slice, rows: slice) -> None:
        place = (batch, rows) if across == 1 else (batch, slice(None), rows)
        result[place] = function(xp, array[place], width)

    _map(work, [(slice(b, b + 1), rows) for b in range(array.shape[0]) for rows in _steps(array.shape[across], step)])
    return result


engine = NumpyEngine()
