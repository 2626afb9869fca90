"""Local correlation of two images and its derivative, in Triton: one pass per axis to measure, one per axis to derive.

The formulae are those at the head of `native/core/lncc.cpp`: five box sums give the moments of each window, from which
follow the correlation c and three maps (four with the curvature), whose box sums give the derivative. The products are
formed where the first pass reads the images, the correlation where the last of these passes would write the moments,
and the derivative where the very last would write the sums: per axis, each quantity is read once and written once.
"""

import math
import struct

import torch
import triton
import triton.language as tl

from keramorph._typing import Array
from keramorph.backend.triton_filters import lay_out_tiles, place_tile
from keramorph.backend.triton_positions import add, unpack

# As in `triton_filters.py`; `volume`, how far planes lie apart, is a multiple of 16 wherever `inner` is.
_SIZES = ["n", "rows", "radius", "size0", "size1", "radius0", "radius1", "floor_bits"]
_CONSTANT = 1e-12
"""Variance over mean square below which an image counts as constant."""


@triton.jit
def _standardize(image, statistics, at, mask):
    """Voxels, shifted and scaled by the statistics of their image; zero where the mask is false."""
    value = tl.load(image + at, mask=mask, other=0.0)
    return tl.where(mask, (value - tl.load(statistics)) * tl.load(statistics + 1), 0.0)


@triton.jit
def _count(row, n, radius):
    return tl.minimum(row + radius, n - 1) - tl.maximum(row - radius, 0) + 1


@triton.jit(do_not_specialize=_SIZES)
def sum_moments(
    fixed, moved, statistics, source, target, n, rows, inner, radius, volume,
    FIRST: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Sums along one axis of f, m, ff, mm and fm: of the images in the first pass, later of the planes in `source`."""
    entry, row, column, inside = place_tile(rows, inner, ROWS, COLUMNS, INDEX)
    start = entry * rows * inner
    statistics += (entry * CHANNELS + column % CHANNELS) * 4
    f, m, ff, mm, fm = _add_moments(
        fixed + start, moved + start, statistics, source + start, row, column, inside, n, inner, radius, volume,
        FIRST, ROWS, COLUMNS,
    )  # fmt: skip
    target += start + row * inner + column
    plane = tl.cast(volume, tl.int64)
    tl.store(target, f, mask=inside)
    tl.store(target + plane, m, mask=inside)
    tl.store(target + 2 * plane, ff, mask=inside)
    tl.store(target + 3 * plane, mm, mask=inside)
    tl.store(target + 4 * plane, fm, mask=inside)


@triton.jit
def _add_moments(
    fixed, moved, statistics, source, row, column, inside, n, inner, radius, volume,
    FIRST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    f = tl.full((ROWS, COLUMNS), 0.0, fixed.dtype.element_ty)
    m, ff, mm, fm = f, f, f, f
    plane = tl.cast(volume, tl.int64)
    voxel = row % n
    for k in range(2 * radius + 1):
        here = voxel + (k - radius)
        mask = inside & (here >= 0) & (here < n)
        at = (row + (k - radius)) * inner + column
        if FIRST:
            one = _standardize(fixed, statistics, at, mask)
            other = _standardize(moved, statistics + 2, at, mask)
            f += one
            m += other
            ff += one * one
            mm += other * other
            fm += one * other
        else:
            f += tl.load(source + at, mask=mask, other=0.0)
            m += tl.load(source + plane + at, mask=mask, other=0.0)
            ff += tl.load(source + 2 * plane + at, mask=mask, other=0.0)
            mm += tl.load(source + 3 * plane + at, mask=mask, other=0.0)
            fm += tl.load(source + 4 * plane + at, mask=mask, other=0.0)
    return f, m, ff, mm, fm


@triton.jit
def _correlate(f, m, ff, mm, fm, share, weight, floor, FORM: tl.constexpr):
    """Correlation c of a window, how much it can count, and p, q and 1 / u_m, with q = -2 dc/dv_m and p = dc/dr."""
    mean_f, mean_m = f * share, m * share
    raw_f, raw_m = ff * share - mean_f * mean_f, mm * share - mean_m * mean_m
    # Rounding can take a variance below zero; NaN stays NaN.
    v_f = tl.where(raw_f > 0, raw_f, raw_f * 0)
    v_m = tl.where(raw_m > 0, raw_m, raw_m * 0)
    r = fm * share - mean_f * mean_m
    over_f, over_m = 1 / (v_f + floor), 1 / (v_m + floor)
    possible = share * 0 + 1
    if FORM == 2:
        r = tl.where(r < 0, r - floor, r + floor)
        possible = 1 - floor * over_f
    if FORM == 1:
        p = tl.sqrt(over_f * over_m)
        value = p * r
    else:
        p = 2 * r * over_f * over_m
        value = p * r * 0.5
    q = p * r * over_m
    if FORM != 2:
        # Without the noise in it, rounding can take a correlation past its end; a variance below zero is held.
        q = tl.where(raw_m > 0, q, raw_m * 0)
        value = tl.where(value > 1, 1.0, value)
        value = tl.where(value < -1, -1.0, value)
    weight = weight * possible
    return value, possible, weight, p, q, over_m, mean_f, mean_m, weight * (p * r - q * v_m)


@triton.jit(do_not_specialize=_SIZES)
def correlate(
    fixed, moved, statistics, source, weights, maps, totals, floor_bits,
    n, rows, inner, radius, volume, size0, size1, radius0, radius1,
    FORM: tl.constexpr, MAPS: tl.constexpr, WEIGHTED: tl.constexpr,
    FIRST: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """The pass along the last axis: `MAPS` maps out, and per tile and channel the sums of four quantities."""
    entry, row, column, inside = place_tile(rows, inner, ROWS, COLUMNS, INDEX)
    start = entry * rows * inner
    real = fixed.dtype.element_ty
    statistics += (entry * CHANNELS + column % CHANNELS) * 4
    f, m, ff, mm, fm = _add_moments(
        fixed + start, moved + start, statistics, source + start, row, column, inside, n, inner, radius, volume,
        FIRST, ROWS, COLUMNS,
    )  # fmt: skip
    line = row // n
    voxels = _count(row % n, n, radius) * _count(line % size1, size1, radius1) * _count(line // size1, size0, radius0)
    # What idle lanes count may be anything.
    share = 1 / tl.maximum(voxels, 1).to(real)
    at = start + row * inner + column
    weight = share * 0 + 1
    if WEIGHTED:
        weight = tl.load(weights + at, mask=inside, other=0.0)
    value, possible, weight, p, q, over_m, mean_f, mean_m, stretch = _correlate(
        f, m, ff, mm, fm, share, weight, unpack(floor_bits, real), FORM
    )
    if MAPS > 0:
        plane = tl.cast(volume, tl.int64)
        to_f, to_m = weight * p * share, weight * q * share
        tl.store(maps + at, to_f, mask=inside)
        tl.store(maps + plane + at, to_m, mask=inside)
        tl.store(maps + 2 * plane + at, to_f * mean_f - to_m * mean_m, mask=inside)
        if MAPS > 3:
            tl.store(maps + 3 * plane + at, 2 * weight * share * over_m, mask=inside)
    column_blocks = (inner + (COLUMNS - 1)) // COLUMNS
    tile = (tl.program_id(0) // column_blocks).to(tl.int64)
    channel = (tl.program_id(0) % column_blocks) * COLUMNS + tl.arange(0, COLUMNS)
    totals += (tile * inner + channel) * 4
    zero = tl.full((ROWS, COLUMNS), 0.0, real)
    exists = channel < inner
    tl.store(totals, tl.reduce(tl.where(inside, weight * value, zero), 0, add), mask=exists)
    tl.store(totals + 1, tl.reduce(tl.where(inside, weight + zero, zero), 0, add), mask=exists)
    tl.store(totals + 2, tl.reduce(tl.where(inside, possible + zero, zero), 0, add), mask=exists)
    tl.store(totals + 3, tl.reduce(tl.where(inside, stretch, zero), 0, add), mask=exists)


@triton.jit(do_not_specialize=_SIZES)
def sum_maps(
    fixed, moved, statistics, factors, source, target, curvature, n, rows, inner, radius, volume,
    MAPS: tl.constexpr, LAST: tl.constexpr,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Sums of the maps along one axis; the last pass puts them together to the derivative, `target`."""
    entry, row, column, inside = place_tile(rows, inner, ROWS, COLUMNS, INDEX)
    start = entry * rows * inner
    a = tl.full((ROWS, COLUMNS), 0.0, fixed.dtype.element_ty)
    b, c, d = a, a, a
    plane = tl.cast(volume, tl.int64)
    source += start
    voxel = row % n
    for k in range(2 * radius + 1):
        here = voxel + (k - radius)
        mask = inside & (here >= 0) & (here < n)
        at = (row + (k - radius)) * inner + column
        a += tl.load(source + at, mask=mask, other=0.0)
        b += tl.load(source + plane + at, mask=mask, other=0.0)
        c += tl.load(source + 2 * plane + at, mask=mask, other=0.0)
        if MAPS > 3:
            d += tl.load(source + 3 * plane + at, mask=mask, other=0.0)
    at = start + row * inner + column
    if LAST:
        channel = entry * CHANNELS + column % CHANNELS
        one = _standardize(fixed, statistics + channel * 4, at, inside)
        other = _standardize(moved, statistics + channel * 4 + 2, at, inside)
        factors += channel * 3
        derivative = one * a - other * (b + tl.load(factors + 1)) - c
        tl.store(target + at, tl.load(factors) * derivative, mask=inside)
        if MAPS > 3:
            tl.store(curvature + at, tl.load(factors + 2) * d, mask=inside)
    else:
        tl.store(target + at, a, mask=inside)
        tl.store(target + plane + at, b, mask=inside)
        tl.store(target + 2 * plane + at, c, mask=inside)
        if MAPS > 3:
            tl.store(target + 3 * plane + at, d, mask=inside)


def compare(
    images: tuple[Array, Array, Array | None],
    *,
    size: tuple[int, ...],
    form: int,
    floor: float,
    least: float,
    maps: int,
) -> tuple[Array, Array | None, Array | None]:
    """Mean local correlation, its derivative to the moved image, and the curvature along it.

    Args:
        images: Fixed and moved, contiguous `(batch, *spatial, channels)` of one data type, float32 or float64, and how
            much each window counts, of the same shape, or None for 1.
        size: Odd edges of a window in voxels.
        form: Which correlation, as `native/core/functions.inc` numbers them.
        floor: Variance that counts as noise.
        least: Share of all windows that the total weight counts for at least.
        maps: 0 for the similarity alone, 3 with its derivative, 4 with the curvature.

    Returns:
        Similarity `(batch,)`; derivative and curvature, of the shape of the images, None where not wanted.
    """
    fixed, moved, weight = images
    statistics = _measure(fixed, moved, form)
    passes = _Passes(fixed, moved, statistics, size)
    totals, planes = passes.measure(weight, (form, floor, maps))
    weighted, here, possible, stretch = totals.unbind(-1)
    total = torch.maximum(here.sum(-1), least * possible.sum(-1))
    similarity = (weighted.sum(-1) / total).to(fixed.dtype)
    if maps == 0:
        return similarity, None, None
    scale = statistics[..., 3].double()
    if form == 2:
        stretch = torch.zeros_like(stretch)
    over = 1 / total[:, None]
    factors = torch.stack([scale * over, stretch / math.prod(fixed.shape[1:-1]), scale * scale * over], dim=-1)
    return similarity, *passes.derive(planes, factors.to(fixed.dtype).contiguous())


def _measure(fixed: Array, moved: Array, form: int) -> Array:
    """Shift and scale of both images, `(batch, channels, 4)`: to mean 0, and without noise to variance 1."""
    columns = []
    for image in (fixed, moved):
        axes = tuple(range(1, image.ndim - 1))
        variance, mean = torch.var_mean(image, dim=axes, correction=0)
        varies = variance > _CONSTANT * mean * mean
        scale = torch.where(varies, torch.rsqrt(torch.where(varies, variance, 1.0)), torch.zeros_like(variance))
        # NaN fails the comparison above and must not count as constant.
        scale = torch.where(variance.isnan(), variance, scale)
        columns += [mean, torch.ones_like(scale) if form == 2 else scale]
    return torch.stack(columns, dim=-1).contiguous()


class _Passes:
    """The launches, one per axis, over scratch planes that are used in turn."""

    def __init__(self, fixed: Array, moved: Array, statistics: Array, size: tuple[int, ...]) -> None:
        self.fixed, self.moved, self.statistics = fixed, moved, statistics
        self.spatial, self.channels = tuple(fixed.shape[1:-1]), fixed.shape[-1]
        self.radii = tuple(min(width // 2, n) for width, n in zip(size, self.spatial, strict=True))

    def measure(self, weight: Array | None, recipe: tuple[int, float, int]) -> tuple[Array, Array]:
        """Totals `(batch, channels, 4)` in double precision, and the maps."""
        source = self.fixed
        *across, last = range(len(self.spatial))
        for axis in across:
            target = self._planes(5)
            grid, sizes, options = self._lay_out(axis)
            sum_moments[grid](
                self.fixed, self.moved, self.statistics, source, target, *sizes, FIRST=axis == 0, **options
            )
            source = target
        form, floor, maps = recipe
        planes = self._planes(maps) if maps else self.fixed
        grid, sizes, options = self._lay_out(last)
        blocks = -(-math.prod(self.spatial) // options["ROWS"])
        totals = self.fixed.new_empty((len(self.fixed), blocks, self.channels, 4))
        correlate[grid](
            self.fixed, self.moved, self.statistics, source, self.fixed if weight is None else weight, planes, totals,
            struct.unpack("<q", struct.pack("<d", floor))[0], *sizes, *self._across(),
            FORM=form, MAPS=maps, WEIGHTED=weight is not None, FIRST=last == 0, **options,
        )  # fmt: skip
        return totals.sum(1, dtype=torch.float64), planes

    def derive(self, planes: Array, factors: Array) -> tuple[Array, Array | None]:
        """Derivative and, from a fourth map, curvature."""
        maps, last = len(planes), len(self.spatial) - 1
        derivative = torch.empty_like(self.fixed)
        curvature = torch.empty_like(self.fixed) if maps > 3 else derivative
        for axis in range(last + 1):
            target = derivative if axis == last else self._planes(maps)
            grid, sizes, options = self._lay_out(axis)
            sum_maps[grid](
                self.fixed, self.moved, self.statistics, factors, planes, target, curvature, *sizes,
                MAPS=maps, LAST=axis == last, **options,
            )  # fmt: skip
            planes = target
        return derivative, curvature if maps > 3 else None

    def _planes(self, count: int) -> Array:
        return self.fixed.new_empty((count, *self.fixed.shape))

    def _lay_out(self, axis: int) -> tuple[tuple, tuple, dict]:
        grid, sizes, options = lay_out_tiles(tuple(self.fixed.shape), axis + 1)
        return grid, (*sizes, self.radii[axis], self.fixed.numel()), {**options, "CHANNELS": self.channels}

    def _across(self) -> tuple[int, int, int, int]:
        """Sizes and radii of the two axes before the last; of one voxel where there are fewer."""
        sizes, radii = (1, 1, *self.spatial[:-1])[-2:], (0, 0, *self.radii[:-1])[-2:]
        return sizes[0], sizes[1], radii[0], radii[1]
