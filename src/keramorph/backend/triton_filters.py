"""Triton kernels that filter along one axis of a volume after another: sums over windows, and Gaussians.

An array is `(batch, rows, inner)`: every `n` rows are a line of voxels, whose neighbours lie `inner` numbers apart.
Nothing is subtracted: a running sum in float32 would drift, and one NaN would poison the rest of its line.
"""

import math
import struct
from typing import Any

import torch
import triton
import triton.language as tl

from keramorph._typing import Array
from keramorph.backend.triton_positions import remainder, unpack

# Sizes change with each level of a pyramid and are not compiled in, but for whether `inner` is one, a multiple of 16 (a
# lane then reads four numbers at once) or neither.
_SIZES = ["n", "rows", "radius", "width", "columns", "scale_bits", "norm_bits"]
_TILE = 1024
_SHORT = 15
"""Windows up to this many voxels are added up one by one: their lines are then mostly in the first-level cache."""
_SHORT_ALONG_MEMORY = 63
"""The same where a line's own voxels are neighbours in memory, which separate lanes would read badly."""


@triton.jit(do_not_specialize=_SIZES)
def convolve(
    array, result, n, rows, inner, radius, scale_bits, norm_bits,
    GAUSSIAN: tl.constexpr, NEAR: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Gaussian, edges reflected, or plain sum, zero outside, over `radius` voxels to both sides.

    A tile has many rows, so that each number read from the second-level cache serves most of the taps from the first.
    """
    entry, row, column, inside = place_tile(rows, inner, ROWS, COLUMNS, INDEX)
    voxel = row % n
    array += entry * rows * inner
    result += entry * rows * inner
    real = array.dtype.element_ty
    if GAUSSIAN:
        norm = unpack(norm_bits, real)
        scale = unpack(scale_bits, real)
        total = tl.load(array + row * inner + column, mask=inside, other=0.0) * norm
        distance = tl.full((1, 1), 0.0, real)
        line = row - voxel
        for k in range(1, radius + 1):
            distance += 1.0
            before = tl.load(array + (line + reflect(voxel - k, n, NEAR)) * inner + column, mask=inside, other=0.0)
            after = tl.load(array + (line + reflect(voxel + k, n, NEAR)) * inner + column, mask=inside, other=0.0)
            total += (before + after) * (tl.exp(distance * distance * scale) * norm)
    else:
        total = tl.full((ROWS, COLUMNS), 0.0, real)
        for k in range(2 * radius + 1):
            here = voxel + (k - radius)
            place = (row + (k - radius)) * inner + column
            total += tl.load(array + place, mask=inside & (here >= 0) & (here < n), other=0.0)
    tl.store(result + row * inner + column, total, mask=inside)


@triton.jit
def place_tile(rows, inner, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INDEX: tl.constexpr):
    """Where this program's tile lies: which entry of the batch, its rows, its columns, and which of them exist."""
    row_blocks = (rows + (ROWS - 1)) // ROWS
    column_blocks = (inner + (COLUMNS - 1)) // COLUMNS
    program = tl.program_id(0)
    entry = (program // (row_blocks * column_blocks)).to(tl.int64)
    rest = program % (row_blocks * column_blocks)
    row = (rest // column_blocks).to(INDEX) * ROWS + tl.arange(0, ROWS)[:, None]
    column = (rest % column_blocks).to(INDEX) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return entry, row, column, (row < rows) & (column < inner)


@triton.jit
def reflect(voxel, n, NEAR: tl.constexpr):
    """Voxels of a line reflected at its edges; NEAR: none lies further outside than the line is long."""
    if NEAR:
        folded = tl.where(voxel < 0, -1 - voxel, voxel)
        folded = tl.where(folded >= n, 2 * n - 1 - folded, folded)
    else:
        rest = remainder(voxel, 2 * n)
        folded = tl.minimum(rest, 2 * n - 1 - rest)
    return folded


@triton.jit(do_not_specialize=_SIZES)
def sum_in_blocks(array, result, n, inner, width, columns, COLUMNS: tl.constexpr):
    """Sums over windows at a cost that does not depend on their `width`.

    Lines are cut into blocks as wide as the window, which then is the end of one block and the beginning of the next:
    sums from the end of the one are written to the result, and sums from the beginning of the other are added there.
    Each lane has a line of its own. (Van Herk 1992, 10.1016/0167-8655(92)90069-C, with sums for maxima.)
    """
    column_blocks = (columns + (COLUMNS - 1)) // COLUMNS
    program = tl.program_id(0)
    column = (program % column_blocks).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    exists = column < columns
    start = (column // inner) * n * inner + column % inner
    first = (program // column_blocks).to(tl.int64) * width + tl.arange(0, 1)
    total = tl.full((COLUMNS,), 0.0, array.dtype.element_ty)
    for k in range(width):
        center = first + (width - 1 - k)
        here = center - width // 2
        total += tl.load(array + start + here * inner, mask=exists & (here >= 0) & (here < n), other=0.0)
        tl.store(result + start + center * inner, total, mask=exists & (center < n))
    # A lane reads only what it wrote itself; this keeps the compiler from thinking otherwise.
    tl.debug_barrier()
    total = tl.full((COLUMNS,), 0.0, array.dtype.element_ty)
    for k in range(1, width):
        center = first + k
        here = center + width // 2
        total += tl.load(array + start + here * inner, mask=exists & (here < n), other=0.0)
        place = result + start + center * inner
        so_far = tl.load(place, mask=exists & (center < n), other=0.0)
        tl.store(place, so_far + total, mask=exists & (center < n))


def sum_windows(array: Array, size: tuple[int, ...]) -> Array:
    """Sums over boxes of `size` voxels of a contiguous `(batch, *spatial, channels)`, zero outside."""
    for axis, width in enumerate(size, start=1):
        if width > 1:
            array = _sum_along(array, axis, width)
    return array if any(width > 1 for width in size) else array.clone()


def smooth(array: Array, sigma: tuple[float, ...]) -> Array:
    """Gaussian of `sigma` voxels of a contiguous `(batch, *spatial, channels)`, as `portable.gaussian` has it."""
    smoothed = array
    for axis, width in enumerate(sigma, start=1):
        radius = int(4.0 * width + 0.5)
        if radius > 0:
            weights = [math.exp(-0.5 * (k / width) ** 2) for k in range(radius + 1)]
            norm = 1.0 / (weights[0] + 2 * sum(weights[1:]))
            smoothed = _convolve_along(smoothed, axis, radius, scale=-0.5 / width**2, norm=norm)
    return array.clone() if smoothed is array else smoothed


def _sum_along(array: Array, axis: int, width: int) -> Array:
    n, inner = array.shape[axis], math.prod(array.shape[axis + 1 :])
    width = min(width, 2 * n + 1)  # a wider window holds the whole line for each voxel just as well
    if width <= (_SHORT if inner >= 32 else _SHORT_ALONG_MEMORY):
        return _convolve_along(array, axis, width // 2)
    result = torch.empty_like(array)
    columns = array.numel() // n
    grid = (-(-columns // 128) * -(-n // width),)
    sum_in_blocks[grid](array, result, n, inner, width, columns, COLUMNS=128, num_warps=4, enable_fp_fusion=True)
    return result


def _convolve_along(array: Array, axis: int, radius: int, *, scale: float | None = None, norm: float = 1.0) -> Array:
    result = torch.empty_like(array)
    grid, sizes, options = lay_out_tiles(tuple(array.shape), axis)
    bits = [struct.unpack("<q", struct.pack("<d", value))[0] for value in (scale or 0.0, norm)]
    options |= {"GAUSSIAN": scale is not None, "NEAR": radius <= sizes[0]}
    convolve[grid](array, result, *sizes, radius, *bits, **options)
    return result


def lay_out_tiles(shape: tuple, axis: int) -> tuple[tuple, tuple[int, int, int], dict[str, Any]]:
    """Grid, sizes `(n, rows, inner)` and compile-time constants for tiles over an array filtered along an axis.

    Sixty-four columns are two whole cache lines, and leave sixteen rows for the taps to share. Powers of two, so that
    sizes seldom ask for a new compilation.
    """
    rows, inner = math.prod(shape[1 : axis + 1]), math.prod(shape[axis + 1 :])
    columns = 1 << (min(inner, 64) - 1).bit_length()
    height = _TILE // columns
    grid = (shape[0] * -(-rows // height) * -(-inner // columns),)
    # Lanes that are masked lie up to a tile, or the window's half, beyond.
    wide = (rows + height + 2 * shape[axis]) * inner >= 1 << 31
    options = {"ROWS": height, "COLUMNS": columns, "INDEX": tl.int64 if wide else tl.int32, "num_warps": 4}
    # The last one named because Triton's default is about to change.
    return grid, (shape[axis], rows, inner), {**options, "enable_fp_fusion": True}
