"""NumPy's work on large arrays, in blocks that fit a core's cache, several at a time.

A chain of NumPy calls on whole volumes waits for memory at each of them, and for fresh pages at each temporary. In
blocks the temporaries never leave the cache. What comes out never depends on how many threads there are.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from keramorph._typing import Array
from keramorph.backend import native

BLOCK = 1 << 14
"""Positions worked on at a time: a dozen float32 temporaries of this size stay in a core's second-level cache."""

SMALL = 1 << 16
"""Positions up to which threads cost more than they save: they wait for one another between NumPy's short calls."""

Place = tuple[slice, ...]
"""Slices of the batch axis and the spatial ones."""


def make_empty(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """An array to be written, in recycled memory if it is large and the extension there."""
    size, extension = math.prod(shape) * dtype.itemsize, native.extension()
    if size < native.RECYCLED or extension is None:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, extension.Memory(size))


def run_blocks(work: Callable[..., None], blocks: Iterable[tuple]) -> None:
    """Call `work(*block)` for all blocks, in threads where there are several."""
    pending = deque(blocks)

    def serve() -> None:
        # NaN coordinates have no integer part; what they index is never used.
        with np.errstate(invalid="ignore", over="ignore"), _mark_worker():
            while pending:
                try:
                    block = pending.popleft()
                except IndexError:  # another thread took the last one
                    return
                work(*block)

    # A block that is itself cut into blocks must not wait for the threads that it keeps busy.
    helpers = 0 if _here.is_worker else min(native.threads(), len(pending)) - 1
    others = [_pool(native.threads() - 1).submit(serve) for _ in range(helpers)]
    try:
        serve()
    finally:
        pending.clear()
        waited = [other for other in others if not other.cancel()]
        wait(waited)
    for other in waited:
        other.result()


class _Here(threading.local):
    """What a thread knows of itself."""

    is_worker = False


_here = _Here()


@contextmanager
def _mark_worker() -> Iterator[None]:
    before, _here.is_worker = _here.is_worker, True
    try:
        yield
    finally:
        _here.is_worker = before


@lru_cache(maxsize=1)
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="keramorph")


def list_steps(count: int, step: int) -> Iterator[slice]:
    """Slices of `step` entries that make up `count` of them."""
    return (slice(first, min(first + step, count)) for first in range(0, count, step))


def map_blocks(function: Callable, arrays: Sequence[Array], *, halo: int, empty: Callable = make_empty) -> Any:
    """What `Engine.map_blocks` says: the function of the whole arrays, computed block by block.

    `empty(shape, dtype)` makes the arrays that the results are written to.
    """
    sizes = arrays[0].shape[:-1]
    if math.prod(sizes) <= SMALL:
        return function(*arrays)
    results: list[Array] = []

    def compute(read: Place, keep: Place) -> tuple[bool, list[Array]]:
        parts = function(*(array[read if array.shape[:-1] == sizes else read[:1]] for array in arrays))
        single = not isinstance(parts, tuple)
        return single, [part[keep] for part in ((parts,) if single else parts)]

    def work(read: Place, keep: Place, write: Place) -> None:
        for result, part in zip(results, compute(read, keep)[1], strict=True):
            result[write] = part

    first, *others = _cut_blocks(sizes, halo)
    # The first block tells what there is to come: how many results, their channels and their types.
    with np.errstate(invalid="ignore", over="ignore"):
        single, parts = compute(*first[:2])
    for part in parts:
        results.append(empty((*sizes, *part.shape[len(sizes) :]), part.dtype))
        results[-1][first[2]] = part
    run_blocks(work, others)
    return results[0] if single else tuple(results)


def _cut_blocks(sizes: tuple[int, ...], halo: int) -> list[tuple[Place, Place, Place]]:
    """Blocks of arrays of these sizes: what is read, what of that is kept, and where it belongs.

    They are cut along the first spatial axis, whose slices lie in one piece, and along the second one too where a
    slice is too large or where little must be read twice.
    """
    batch, rows, *rest = sizes
    columns, depth = (rest[0], math.prod(rest[1:])) if rest else (1, 1)
    wide = math.isqrt(2 * BLOCK // depth) if halo else max(1, 2 * BLOCK // depth)
    wide = min(columns, max(wide, 4 * halo, 1))
    tall = max(1, 2 * halo, 2 * BLOCK // (wide * depth))
    blocks = []
    for entry in list_steps(batch, 1):
        for across in list_steps(rows, tall):
            for down in list_steps(columns, wide) if rest else [None]:
                spans = [across] if down is None else [across, down]
                read = [
                    slice(max(0, s.start - halo), min(n, s.stop + halo)) for s, n in zip(spans, sizes[1:], strict=False)
                ]
                keep = [slice(s.start - r.start, s.stop - r.start) for s, r in zip(spans, read, strict=True)]
                blocks.append(((entry, *read), (slice(None), *keep), (entry, *spans)))
    return blocks
