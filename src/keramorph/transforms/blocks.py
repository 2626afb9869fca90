"""A grid in blocks whose points stay in the cache: where their voxels lie, and what an array holds where they go."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from keramorph import backend
from keramorph._typing import Boundary, Order
from keramorph.backend.blocks import list_steps
from keramorph.ops.vectors import multiply_components

_VOXELS = 1 << 15

Block = tuple[slice, ...]
"""Slices of the spatial axes."""


def cut_grid(shape: tuple[int, ...], voxels: int = _VOXELS) -> Iterator[Block]:
    """Blocks of about so many voxels that make up a grid, as compact as it lets them be.

    Wherever a transform turns it, a compact block reads a compact part of an image.
    """
    edges, left = [1] * len(shape), voxels
    for done, axis in enumerate(sorted(range(len(shape)), key=shape.__getitem__)):
        edges[axis] = min(shape[axis], max(1, round(left ** (1 / (len(shape) - done)))))
        left = max(1, left // edges[axis])
    return product(*map(list_steps, shape, edges))


def place_voxels(matrix: np.ndarray, block: Block) -> list[np.ndarray]:
    """Where a homogeneous matrix takes the voxels of a block: a float64 array of the block's shape per component."""
    spans = [np.arange(span.start, span.stop, dtype=np.float64) for span in block]
    lines = np.meshgrid(*spans, indexing="ij", sparse=True)
    moved = multiply_components(matrix[:-1, :-1], lines)
    shape = tuple(map(len, spans))
    return [np.broadcast_to(line + shift, shape) for line, shift in zip(moved, matrix[:-1, -1], strict=True)]


def place_points(matrix: np.ndarray, block: Block) -> np.ndarray:
    """The same as points `(*block, ndim)`."""
    return np.stack(place_voxels(matrix, block), axis=-1)


def move_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Where a homogeneous matrix takes points `(..., ndim)`."""
    return multiply_vectors(matrix, points) + matrix[:-1, -1]


def multiply_vectors(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Linear part of a homogeneous matrix times vectors `(..., ndim)`."""
    # Row by row: for one large product the BLAS starts threads, which wait for each other where others hold the cores.
    return vectors @ matrix[:-1, :-1].T


def find_ends(index: np.ndarray) -> np.ndarray:
    """The smallest and the largest of the indices `(..., ndim)` along each axis, `(2, ndim)`; NaN where one is NaN."""
    if index.size == 0:
        return np.zeros((2, index.shape[-1]))
    # One column after the other: of all at once takes NumPy ten times as long.
    columns = index.reshape(-1, index.shape[-1]).T
    return np.array([[column.min(), column.max()] for column in columns]).T


def cut_out(array: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What linear interpolation reads of an array `(*spatial, channels)`, its edge extended, and where that begins.

    Args:
        array: Any real data type.
        ends: The smallest and the largest continuous index along each axis, `(2, ndim)`.
    """
    first, last = np.clip(np.floor(ends) + np.array([[0], [1]]), 0, np.asarray(array.shape[:-1]) - 1)
    if np.isnan(ends).any():
        return array, np.zeros_like(first)
    return array[tuple(slice(int(a), int(b) + 1) for a, b in zip(first, last, strict=True))], first


def sample_lines(array: np.ndarray, lines: list[np.ndarray]) -> np.ndarray:
    """Values of an array `(*spatial, channels)` where lines of continuous indices along its axes cross.

    Interpolated linearly and in double precision, the array's edge extended.
    """
    ends = np.sort([[line[0], line[-1]] for line in lines], axis=1).T
    part, first = cut_out(array, ends)
    array = part.astype(np.float64, copy=False)
    # The last axis first: the others, of which there is more then, are blended in long runs.
    for axis, index in reversed(list(enumerate(map(np.subtract, lines, first)))):
        last = array.shape[axis] - 1
        index = np.clip(index, 0, last)
        low = index.astype(np.intp)
        here, blend = array.take(low, axis), array.take(np.minimum(low + 1, last), axis)
        blend -= here
        blend *= (index - low).reshape(-1, *[1] * (array.ndim - 1 - axis))
        array = np.add(here, blend, out=blend)
    return array


def sample_points(
    array: np.ndarray, index: np.ndarray, ends: np.ndarray, *, order: Order = 1, boundary: Boundary = "nearest"
) -> np.ndarray:
    """Values `(*field, channels)` of an array `(*spatial, channels)` at continuous indices `(*field, ndim)`.

    Interpolated in double precision, to which no more of the array is brought than is read. `ends` are those of the
    indices.
    """
    if order == 1 and boundary == "nearest":
        array, first = cut_out(array, ends)
        index = index - first
    lifted = array if order == 0 else array.astype(np.float64, copy=False)
    return backend.use("numpy").sample(lifted[None], index[None], order=order, boundary=boundary)[0]
