"""Triton kernels that read images between their voxels, and the adjoint that adds values onto them.

A program takes a tile of positions times channels. Positions follow the memory of the field, so that neighbouring lanes
read coordinates and write values next to each other, and mostly read neighbouring voxels; the channels of a voxel are
neighbours in memory too. No sampling grid is ever written: displacements become positions in registers.
"""

import triton
import triton.language as tl

from keramorph.backend.triton_positions import add, enter, locate, tap, unpack, weigh

# Sizes differ from one level of a pyramid to the next. Specialised on their divisibility, which is Triton's habit, each
# combination would cost a compilation of about a second and gain nothing: the addresses of gathers depend on data.
_SIZES = ["fill_bits", "n0", "n1", "n2", "m1", "m2", "count"]


@triton.jit
def _read_linear(
    image, channel, mask, index0, index1, index2, fraction0, fraction1, fraction2, n0, n1, n2,
    CHANNELS: tl.constexpr, NDIM: tl.constexpr, BOUNDARY: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Value and slopes of the multilinear interpolant, the last axis innermost; what is not used costs nothing."""
    near2 = tap(index2, fraction2, n2, 0, 1, BOUNDARY).to(INDEX) * CHANNELS + channel
    far2 = tap(index2, fraction2, n2, 1, 1, BOUNDARY).to(INDEX) * CHANNELS + channel
    if NDIM == 1:
        value, along = _read_pair(image, near2, far2, fraction2, mask)
        first, second = along, along
    else:
        near1 = tap(index1, fraction1, n1, 0, 1, BOUNDARY).to(INDEX)
        far1 = tap(index1, fraction1, n1, 1, 1, BOUNDARY).to(INDEX)
        line = n2 * CHANNELS
        if NDIM == 2:
            value, second, along = _read_square(
                image, near1 * line, far1 * line, near2, far2, fraction1, fraction2, mask
            )
            first = second
        else:
            near0 = tap(index0, fraction0, n0, 0, 1, BOUNDARY).to(INDEX) * n1
            far0 = tap(index0, fraction0, n0, 1, 1, BOUNDARY).to(INDEX) * n1
            a, a1, a2 = _read_square(
                image, (near0 + near1) * line, (near0 + far1) * line, near2, far2, fraction1, fraction2, mask
            )
            b, b1, b2 = _read_square(
                image, (far0 + near1) * line, (far0 + far1) * line, near2, far2, fraction1, fraction2, mask
            )
            first = b - a
            value = a + fraction0 * first
            second = a1 + fraction0 * (b1 - a1)
            along = a2 + fraction0 * (b2 - a2)
    return value, first, second, along


@triton.jit
def _read_pair(image, near, far, fraction, mask):
    a = tl.load(image + near, mask=mask, other=0.0).to(fraction.dtype)
    b = tl.load(image + far, mask=mask, other=0.0).to(fraction.dtype)
    return a + fraction * (b - a), b - a


@triton.jit
def _read_square(image, row_a, row_b, near, far, fraction1, fraction2, mask):
    a, a2 = _read_pair(image, row_a + near, row_a + far, fraction2, mask)
    b, b2 = _read_pair(image, row_b + near, row_b + far, fraction2, mask)
    return a + fraction1 * (b - a), b - a, a2 + fraction1 * (b2 - a2)


@triton.jit
def _read_cubic(
    image, channel, mask, index0, index1, index2, fraction0, fraction1, fraction2, n0, n1, n2,
    CHANNELS: tl.constexpr, NDIM: tl.constexpr, BOUNDARY: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Value and slopes of the cubic B-spline whose coefficients are given."""
    empty = tl.full(mask.shape, 0.0, fraction2.dtype)
    value, first, second, along = empty, empty, empty, empty
    for i in tl.static_range(4 if NDIM > 2 else 1):
        plane, plane1, plane2 = empty, empty, empty
        row0 = (index2 * 0).to(INDEX)
        if NDIM > 2:
            row0 = tap(index0, fraction0, n0, i, 3, BOUNDARY).to(INDEX) * n1
        for j in tl.static_range(4 if NDIM > 1 else 1):
            line, line2 = empty, empty
            row = row0
            if NDIM > 1:
                row = (row0 + tap(index1, fraction1, n1, j, 3, BOUNDARY).to(INDEX)) * n2
            for k in tl.static_range(4):
                place = (row + tap(index2, fraction2, n2, k, 3, BOUNDARY).to(INDEX)) * CHANNELS + channel
                voxel = tl.load(image + place, mask=mask, other=0.0).to(fraction2.dtype)
                weight, slope = weigh(fraction2, k, 3)
                line += weight * voxel
                line2 += slope * voxel
            if NDIM > 1:
                weight, slope = weigh(fraction1, j, 3)
                plane += weight * line
                plane1 += slope * line
                plane2 += weight * line2
            else:
                plane, plane2 = line, line2
        if NDIM > 2:
            weight, slope = weigh(fraction0, i, 3)
            value += weight * plane
            first += slope * plane
            second += weight * plane1
            along += weight * plane2
        else:
            value, second, along = plane, plane1, plane2
    return value, first, second, along


@triton.jit
def _read(
    image, channel, mask, fill, index0, index1, index2, fraction0, fraction1, fraction2, n0, n1, n2,
    ORDER: tl.constexpr, CHANNELS: tl.constexpr, NDIM: tl.constexpr, BOUNDARY: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Value and slopes as the rule says, the fill value and slopes of zero outside."""
    index2, inside = enter(index2, fraction2, n2, BOUNDARY)
    if NDIM > 1:
        index1, inside1 = enter(index1, fraction1, n1, BOUNDARY)
        inside = inside & inside1
    if NDIM > 2:
        index0, inside0 = enter(index0, fraction0, n0, BOUNDARY)
        inside = inside & inside0
    if ORDER == 1:
        value, first, second, along = _read_linear(
            image, channel, mask & inside, index0, index1, index2, fraction0, fraction1, fraction2, n0, n1, n2,
            CHANNELS, NDIM, BOUNDARY, INDEX,
        )  # fmt: skip
    else:
        value, first, second, along = _read_cubic(
            image, channel, mask & inside, index0, index1, index2, fraction0, fraction1, fraction2, n0, n1, n2,
            CHANNELS, NDIM, BOUNDARY, INDEX,
        )  # fmt: skip
    if BOUNDARY == "constant":
        value = tl.where(inside, value, fill)
        first, second = tl.where(inside, first, 0.0), tl.where(inside, second, 0.0)
        along = tl.where(inside, along, 0.0)
    return value, first, second, along


@triton.jit
def _read_central_difference(
    image, channel, mask, fill, index0, index1, index2, fraction0, fraction1, fraction2, n0, n1, n2,
    ORDER: tl.constexpr, CHANNELS: tl.constexpr, NDIM: tl.constexpr, BOUNDARY: tl.constexpr, INDEX: tl.constexpr,
    STEP0: tl.constexpr, STEP1: tl.constexpr, STEP2: tl.constexpr,
):  # fmt: skip
    """Central difference of the image along the axis whose step is 1, instead of the interpolant's slope."""
    after, _, _, _ = _read(
        image, channel, mask, fill,
        index0 + STEP0, index1 + STEP1, index2 + STEP2, fraction0, fraction1, fraction2, n0, n1, n2,
        ORDER, CHANNELS, NDIM, BOUNDARY, INDEX,
    )  # fmt: skip
    before, _, _, _ = _read(
        image, channel, mask, fill,
        index0 - STEP0, index1 - STEP1, index2 - STEP2, fraction0, fraction1, fraction2, n0, n1, n2,
        ORDER, CHANNELS, NDIM, BOUNDARY, INDEX,
    )  # fmt: skip
    return (after - before) * 0.5


@triton.jit(do_not_specialize=_SIZES)
def sample(
    image, coordinates, cotangent, values, derivative, fill_bits, n0, n1, n2, m1, m2, count,
    WANTED: tl.constexpr, PLUS: tl.constexpr, SMOOTH: tl.constexpr, RELATIVE: tl.constexpr, BOUNDARY: tl.constexpr,
    ORDER: tl.constexpr, NDIM: tl.constexpr, CHANNELS: tl.constexpr,
    POSITIONS: tl.constexpr, TILE: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """`WANTED` "values"; "both", with the derivative; or "gradient": the cotangent against the derivative.

    Offsets inside one entry of the batch are of type INDEX; where an entry starts is always counted in 64 bits.
    """
    blocks = (count + (POSITIONS - 1)) // POSITIONS
    program = tl.program_id(0)
    entry = (program // blocks).to(tl.int64)
    number = (program % blocks).to(INDEX) * POSITIONS + tl.arange(0, POSITIONS)[:, None]
    mask = number < count
    real = coordinates.dtype.element_ty
    image += entry * n0 * n1 * n2 * CHANNELS
    coordinates += entry * count * NDIM
    index0, index1, index2, fraction0, fraction1, fraction2 = locate(number, coordinates, mask, m1, m2, NDIM, RELATIVE)
    fill = unpack(fill_bits, real)
    total0 = tl.full((POSITIONS, TILE), 0.0, real)
    total1, total2 = total0, total0
    for start in range(0, CHANNELS, TILE):
        channel = start + tl.arange(0, TILE)[None, :]
        here = mask & (channel < CHANNELS)
        value, first, second, along = _read(
            image, channel, here, fill, index0, index1, index2, fraction0, fraction1, fraction2, n0, n1, n2,
            ORDER, CHANNELS, NDIM, BOUNDARY, INDEX,
        )  # fmt: skip
        if SMOOTH and WANTED != "values":
            along = _read_central_difference(
                image, channel, here, fill, index0, index1, index2, fraction0, fraction1, fraction2, n0, n1, n2,
                ORDER, CHANNELS, NDIM, BOUNDARY, INDEX, 0, 0, 1,
            )  # fmt: skip
            if NDIM > 1:
                second = _read_central_difference(
                    image, channel, here, fill, index0, index1, index2, fraction0, fraction1, fraction2, n0, n1, n2,
                    ORDER, CHANNELS, NDIM, BOUNDARY, INDEX, 0, 1, 0,
                )  # fmt: skip
            if NDIM > 2:
                first = _read_central_difference(
                    image, channel, here, fill, index0, index1, index2, fraction0, fraction1, fraction2, n0, n1, n2,
                    ORDER, CHANNELS, NDIM, BOUNDARY, INDEX, 1, 0, 0,
                )  # fmt: skip
        place = number * CHANNELS + channel
        to = entry * count * CHANNELS
        if WANTED == "gradient":
            weight = tl.load(cotangent + to + place, mask=here, other=0.0).to(real)
            total2 += weight * along
            if NDIM > 1:
                total1 += weight * second
            if NDIM > 2:
                total0 += weight * first
        else:
            if PLUS:
                value += tl.load(coordinates + place, mask=here, other=0.0)
            tl.store(values + to + place, value.to(values.dtype.element_ty), mask=here)
            if WANTED == "both":
                # Lanes write with a stride of `NDIM`; the second-level cache puts the lines together.
                slopes = derivative + to * NDIM + place * NDIM
                tl.store(slopes + (NDIM - 1), along, mask=here)
                if NDIM > 1:
                    tl.store(slopes + (NDIM - 2), second, mask=here)
                if NDIM > 2:
                    tl.store(slopes, first, mask=here)
    if WANTED == "gradient":
        gradient = derivative + entry * count * NDIM + tl.arange(0, POSITIONS) * 0
        row = (program % blocks).to(INDEX) * POSITIONS + tl.arange(0, POSITIONS)
        gradient += row * NDIM
        tl.store(gradient + (NDIM - 1), tl.reduce(total2, 1, add), mask=row < count)
        if NDIM > 1:
            tl.store(gradient + (NDIM - 2), tl.reduce(total1, 1, add), mask=row < count)
        if NDIM > 2:
            tl.store(gradient, tl.reduce(total0, 1, add), mask=row < count)


@triton.jit(do_not_specialize=_SIZES)
def copy_nearest(
    image, coordinates, values, fill_bits, n0, n1, n2, m1, m2, count,
    RELATIVE: tl.constexpr, BOUNDARY: tl.constexpr, NDIM: tl.constexpr, CHANNELS: tl.constexpr,
    POSITIONS: tl.constexpr, TILE: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """The nearest voxel, copied bit by bit whatever it is: images come as integers of their own width."""
    blocks = (count + (POSITIONS - 1)) // POSITIONS
    program = tl.program_id(0)
    entry = (program // blocks).to(tl.int64)
    number = (program % blocks).to(INDEX) * POSITIONS + tl.arange(0, POSITIONS)[:, None]
    mask = number < count
    image += entry * n0 * n1 * n2 * CHANNELS
    values += entry * count * CHANNELS
    coordinates += entry * count * NDIM
    index0, index1, index2, fraction0, fraction1, fraction2 = locate(number, coordinates, mask, m1, m2, NDIM, RELATIVE)
    index2, inside = enter(index2, fraction2, n2, BOUNDARY)
    voxel = tap(index2, fraction2, n2, 0, 0, BOUNDARY).to(INDEX)
    if NDIM > 1:
        index1, inside1 = enter(index1, fraction1, n1, BOUNDARY)
        inside = inside & inside1
        voxel += tap(index1, fraction1, n1, 0, 0, BOUNDARY).to(INDEX) * n2
    if NDIM > 2:
        index0, inside0 = enter(index0, fraction0, n0, BOUNDARY)
        inside = inside & inside0
        voxel += tap(index0, fraction0, n0, 0, 0, BOUNDARY).to(INDEX) * n1 * n2
    fill = fill_bits.to(image.dtype.element_ty)
    for start in range(0, CHANNELS, TILE):
        channel = start + tl.arange(0, TILE)[None, :]
        here = mask & (channel < CHANNELS)
        value = tl.load(image + voxel * CHANNELS + channel, mask=here & inside, other=0)
        tl.store(values + number * CHANNELS + channel, tl.where(inside, value, fill), mask=here)


@triton.jit(do_not_specialize=_SIZES)
def splat(
    values, coordinates, image, n0, n1, n2, m1, m2, count,
    RELATIVE: tl.constexpr, BOUNDARY: tl.constexpr, ORDER: tl.constexpr, NDIM: tl.constexpr, CHANNELS: tl.constexpr,
    POSITIONS: tl.constexpr, TILE: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Add values onto the voxels that a sample would read, atomically: the order of the additions is not fixed.

    Neighbouring lanes mostly add to neighbouring voxels, and nobody waits for an addition whose result is not used: the
    second-level cache carries them out.
    """
    blocks = (count + (POSITIONS - 1)) // POSITIONS
    program = tl.program_id(0)
    entry = (program // blocks).to(tl.int64)
    number = (program % blocks).to(INDEX) * POSITIONS + tl.arange(0, POSITIONS)[:, None]
    mask = number < count
    real = coordinates.dtype.element_ty
    image += entry * n0 * n1 * n2 * CHANNELS
    values += entry * count * CHANNELS
    coordinates += entry * count * NDIM
    index0, index1, index2, fraction0, fraction1, fraction2 = locate(number, coordinates, mask, m1, m2, NDIM, RELATIVE)
    index2, inside = enter(index2, fraction2, n2, BOUNDARY)
    if NDIM > 1:
        index1, inside1 = enter(index1, fraction1, n1, BOUNDARY)
        inside = inside & inside1
    if NDIM > 2:
        index0, inside0 = enter(index0, fraction0, n0, BOUNDARY)
        inside = inside & inside0
    for start in range(0, CHANNELS, TILE):
        channel = start + tl.arange(0, TILE)[None, :]
        here = mask & inside & (channel < CHANNELS)
        value = tl.load(values + number * CHANNELS + channel, mask=here, other=0.0).to(real)
        for i in tl.static_range(ORDER + 1 if NDIM > 2 else 1):
            plane = value
            row0 = (index2 * 0).to(INDEX)
            if NDIM > 2:
                row0 = tap(index0, fraction0, n0, i, ORDER, BOUNDARY).to(INDEX) * n1
                if ORDER > 0:
                    plane *= weigh(fraction0, i, ORDER)[0]
            for j in tl.static_range(ORDER + 1 if NDIM > 1 else 1):
                line = plane
                row = row0
                if NDIM > 1:
                    row = (row0 + tap(index1, fraction1, n1, j, ORDER, BOUNDARY).to(INDEX)) * n2
                    if ORDER > 0:
                        line *= weigh(fraction1, j, ORDER)[0]
                for k in tl.static_range(ORDER + 1):
                    share = line
                    if ORDER > 0:
                        share *= weigh(fraction2, k, ORDER)[0]
                    place = (row + tap(index2, fraction2, n2, k, ORDER, BOUNDARY).to(INDEX)) * CHANNELS + channel
                    tl.atomic_add(image + place, share, mask=here, sem="relaxed")
