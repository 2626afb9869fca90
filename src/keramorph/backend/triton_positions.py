"""Index arithmetic of the Triton kernels: where a coordinate points to, and what the boundary makes of it.

Coordinates are split into an integer and a fraction before anything else, and every boundary is a fold of integers, as
in `portable.py`. The last axis of an image is always axis 2 here: an image of two axes has axes 1 and 2.

Everything below is device code. It uses no function of Triton's own standard library (`tl.zeros`, `tl.sum`, `tl.cdiv`),
which is compiled or interpreted as Triton was first imported: so the tests can interpret these kernels in a process in
which others are compiled.
"""

import triton
import triton.language as tl


@triton.jit
def locate(number, coordinates, mask, m1, m2, NDIM: tl.constexpr, RELATIVE: tl.constexpr):
    """Whole voxels and fractions, axis by axis, of the positions `number` in a field of `(.., m1, m2)` voxels."""
    own2 = (number * 0).to(tl.int32)
    own1 = own2
    own0 = own2
    if RELATIVE:
        line = number // m2
        own2 = (number - line * m2).to(tl.int32)
        own0 = (line // m1).to(tl.int32)
        own1 = (line - (line // m1) * m1).to(tl.int32)
    place = coordinates + number * NDIM
    index2, fraction2 = split(tl.load(place + (NDIM - 1), mask=mask, other=0.0), own2)
    index1, fraction1 = index2, fraction2
    index0, fraction0 = index2, fraction2
    if NDIM > 1:
        index1, fraction1 = split(tl.load(place + (NDIM - 2), mask=mask, other=0.0), own1)
    if NDIM > 2:
        index0, fraction0 = split(tl.load(place, mask=mask, other=0.0), own0)
    return index0, index1, index2, fraction0, fraction1, fraction2


@triton.jit
def split(given, own):
    """Index and fraction of a coordinate relative to `own`; NaN becomes an index far outside with a fraction NaN."""
    # Held inside +-1e9 so that whole numbers fit 32 bits; no image is that large.
    safe = tl.where(given > -1e9, given, -1e9)
    safe = tl.where(safe < 1e9, safe, 1e9)
    whole = tl.floor(safe)
    fraction = tl.where(given == given, safe - whole, given)
    return whole.to(tl.int32) + own, fraction


@triton.jit
def remainder(index, period):
    """Remainder that is never negative, whichever way `%` rounds: compilers and interpreters need not agree."""
    rest = index % period
    return tl.where(rest < 0, rest + period, rest)


@triton.jit
def fold(index, size, BOUNDARY: tl.constexpr):
    """Bring indices into 0 .. size - 1; `constant` and `wrap` mirror, as in SciPy."""
    if BOUNDARY == "nearest":
        folded = tl.minimum(tl.maximum(index, 0), size - 1)
    elif BOUNDARY == "reflect":
        rest = remainder(index, 2 * size)
        folded = tl.minimum(rest, 2 * size - 1 - rest)
    else:
        period = tl.maximum(2 * size - 2, 1)
        rest = remainder(index, period)
        folded = tl.minimum(rest, period - rest)
    return folded


@triton.jit
def enter(index, fraction, size, BOUNDARY: tl.constexpr):
    """Index with `wrap` undone, and whether the position lies inside: outside there is a `constant` fill value."""
    inside = index == index
    if BOUNDARY == "constant":
        # NaN is outside: it fails `fraction >= 0`.
        on_last = (index == size - 1) & (fraction == 0)
        inside = (index >= 0) & ((index < size - 1) | on_last) & (fraction >= 0)
    elif BOUNDARY == "wrap":
        # The last voxel lies on the first, and below zero the seam belongs to the last.
        wrapped = remainder(index, tl.maximum(size - 1, 1))
        seam = (index < 0) & (fraction == 0) & (wrapped == 0)
        last = (index == size - 1) & (fraction == 0)
        index = tl.where(seam | last, size - 1, wrapped)
    return index, inside


@triton.jit
def tap(index, fraction, size, K: tl.constexpr, ORDER: tl.constexpr, BOUNDARY: tl.constexpr):
    """Voxel, along one axis, of the tap number K of an interpolant; always inside the image."""
    if ORDER == 0:
        voxel = fold(index + rounds_up(index, fraction, size, BOUNDARY).to(tl.int32), size, BOUNDARY)
    elif ORDER == 1:
        if BOUNDARY == "constant" or BOUNDARY == "wrap":
            # The second tap leaves a constant or wrapped image only with weight zero, so that clipping it will do.
            voxel = fold(index + K, size, "nearest")
        else:
            voxel = fold(index + K, size, BOUNDARY)
    elif BOUNDARY == "nearest":
        # Coefficients of an image whose edge extends are 16 voxels (`spline.EDGE`) longer at both ends.
        voxel = fold(index + (K + 15), size, BOUNDARY)
    else:
        voxel = fold(index + (K - 1), size, BOUNDARY)
    return voxel


@triton.jit
def rounds_up(index, fraction, size, BOUNDARY: tl.constexpr):
    """Whether the nearest voxel is the next one; half-way ties turn round where SciPy reflects the coordinate."""
    if BOUNDARY == "reflect":
        turned = remainder(index, 2 * size) >= size
        up = (fraction > 0.5) | ((fraction == 0.5) & (turned == 0))
    elif BOUNDARY == "mirror":
        place = remainder(index, tl.maximum(2 * size - 2, 1))
        turned = (place >= size) | ((place == size - 1) & (index < 0))
        up = (fraction > 0.5) | ((fraction == 0.5) & (turned == 0))
    else:
        up = fraction >= 0.5
    return up


@triton.jit
def weigh(t, K: tl.constexpr, ORDER: tl.constexpr):
    """Weight of the tap number K at a fraction, and the derivative of the weight. Order 1 or 3."""
    s = 1 - t
    if ORDER == 1:
        weight = s
        slope = t * 0 - 1
        if K == 1:
            weight = t
            slope = t * 0 + 1
    elif K == 0:
        weight = s * s * s / 6
        slope = -s * s / 2
    elif K == 1:
        weight = (4 + t * t * (3 * t - 6)) / 6
        slope = t * (1.5 * t - 2)
    elif K == 2:
        weight = (4 + s * s * (3 * s - 6)) / 6
        slope = s * (2 - 1.5 * s)
    else:
        weight = t * t * t / 6
        slope = t * t / 2
    return weight, slope


@triton.jit
def unpack(bits, REAL: tl.constexpr):
    """A double that the host passed by its bits: Triton hands over floats in single precision."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True).to(REAL)


@triton.jit
def add(a, b):
    """The combination of a sum."""
    return a + b
