"""The primitive contract once, as gathers and adds on an array namespace: the reference of every kernel.

Each function takes the engine's namespace `xp` first. Images are `(batch, *spatial, channels)`, coordinates
`(batch, *field, ndim)` in voxels of the image. Positions are split into an integer index and a fraction before
anything else, so that the accuracy of a displacement does not depend on where in the image it stands, and every
boundary is a fold of integers.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from keramorph._typing import Array
from keramorph.backend.lines import at_least, cut, fold
from keramorph.backend.rule import Rule
from keramorph.backend.spline import EDGE, prefilter, prefilter_adjoint

_FAR = 1e9
"""Coordinates are held inside +-1e9 so that their integer part fits 32 bits; no image is that large."""


class _Axis(NamedTuple):
    """Taps of the interpolant along one axis: row offsets, weights and derivatives of the weights."""

    offsets: list[Array]
    weights: list[Array]
    slopes: list[Array]
    inside: Array | None


def sample(xp: Any, image: Array, coordinates: Array, rule: Rule, start: int = 0) -> Array:
    """Values `(batch, *field, channels)` of an image of coefficients; `start` is the first row of a cut-out field."""
    rows, axes = _prepare(xp, image, coordinates, rule, start)
    dtype = None if rule.order == 0 else xp.dtype(coordinates)
    offset = _batch_offset(xp, image, coordinates)
    values, _ = _visit(xp, rows, axes, offset, order=rule.order, dtype=dtype, derivative=False)
    return cast_like(xp, _fill(xp, values, axes, rule.fill_value), image)


def sample_with_derivative(
    xp: Any, image: Array, coordinates: Array, rule: Rule, start: int = 0
) -> tuple[Array, Array]:
    """Values `(batch, *field, channels)` and their derivative `(batch, *field, channels, ndim)` to the coordinates."""
    if rule.gradient == "smooth":
        return sample(xp, image, coordinates, rule, start), _central_difference(xp, image, coordinates, rule, start)
    rows, axes = _prepare(xp, image, coordinates, rule, start)
    dtype, offset = xp.dtype(coordinates), _batch_offset(xp, image, coordinates)
    values, slopes = _visit(xp, rows, axes, offset, order=rule.order, dtype=dtype, derivative=True)
    values = _fill(xp, values, axes, rule.fill_value)
    derivative = xp.stack([_fill(xp, slope, axes, 0.0) for slope in slopes], axis=-1)
    return cast_like(xp, values, image), derivative


def pull_back(xp: Any, image: Array, coordinates: Array, cotangent: Array, rule: Rule) -> Array:
    """Gradient of a sample to its coordinates: itself a gather, with nothing kept from the forward pass."""
    _, derivative = sample_with_derivative(xp, image, coordinates, rule)
    return xp.sum(xp.cast(cotangent, xp.dtype(derivative))[..., None] * derivative, axis=-2)


def splat(xp: Any, values: Array, coordinates: Array, shape: tuple, rule: Rule) -> Array:
    """Add values `(batch, *field, channels)` onto the voxels `(batch, *shape, channels)` that `sample` would read."""
    batch, channels = xp.shape(values)[0], xp.shape(values)[-1]
    dtype = xp.dtype(coordinates)
    axes = _taps(xp, shape, coordinates, rule, 0)
    weighted = _fill(xp, xp.cast(values, dtype), axes, 0.0)
    rows = xp.zeros((batch * math.prod(shape), channels), dtype=dtype, like=values)
    offset = _rows_offset(xp, batch, math.prod(shape), coordinates)
    rows = _scatter(xp, rows, axes, offset, weighted)
    return cast_like(xp, xp.reshape(rows, (batch, *shape, channels)), values)


def to_coefficients(xp: Any, image: Array, rule: Rule) -> Array:
    """Return what `sample` reads: the image itself, or for cubic splines its B-spline coefficients."""
    return prefilter(xp, image, rule.boundary) if rule.order == 3 else image


def from_coefficients(xp: Any, coefficients: Array, rule: Rule) -> Array:
    """Adjoint of `to_coefficients`: what a splat onto coefficients means for the image."""
    return prefilter_adjoint(xp, coefficients, rule.boundary) if rule.order == 3 else coefficients


def window_sum(xp: Any, array: Array, size: tuple[int, ...]) -> Array:
    """Sums over boxes of `size` voxels around each voxel of `(batch, *spatial, channels)`, zero outside.

    A box is put together from sums over powers of two: the cost grows with the logarithm of the window, and no
    running sum over the whole line costs float32 its accuracy.
    """
    for axis, length in enumerate(size, start=1):
        if length == 1:
            continue
        count = xp.shape(array)[axis]
        widths = [(0, 0)] * len(xp.shape(array))
        widths[axis] = (length // 2, length // 2)
        power, total, reach, done, rest = xp.pad(array, widths), None, 1, 0, length
        while rest:
            if rest & 1:
                piece = cut(power, axis, done, done + count)
                total, done = piece if total is None else total + piece, done + reach
            rest >>= 1
            if rest:
                here = xp.shape(power)[axis]
                power = cut(power, axis, 0, here - reach) + cut(power, axis, reach, here)
                reach *= 2
        array = total
    return array


def gaussian(xp: Any, array: Array, sigma: tuple[float, ...]) -> Array:
    """Smooth `(batch, *spatial, channels)` by Gaussians of `sigma` voxels, truncated at 4 sigma, edges reflected."""
    for axis, width in enumerate(sigma, start=1):
        radius = int(4.0 * width + 0.5)
        if radius == 0:
            continue
        raw = [math.exp(-0.5 * (k / width) ** 2) for k in range(radius + 1)]
        norm = raw[0] + 2 * sum(raw[1:])
        count = xp.shape(array)[axis]
        index = fold(xp, xp.arange(count + 2 * radius, dtype=xp.index_dtype(0), like=array) - radius, count, "reflect")
        padded = xp.take(array, index, axis)
        array = cut(padded, axis, radius, radius + count) * (raw[0] / norm)
        for k in range(1, radius + 1):
            pair = cut(padded, axis, radius - k, radius - k + count) + cut(padded, axis, radius + k, radius + k + count)
            array = array + pair * (raw[k] / norm)
    return array


def _prepare(xp: Any, image: Array, coordinates: Array, rule: Rule, start: int) -> tuple[Array, list[_Axis]]:
    shape = xp.shape(image)
    rows = xp.reshape(image, (math.prod(shape[:-1]), shape[-1]))
    return rows, _taps(xp, shape[1:-1], coordinates, rule, start)


def _batch_offset(xp: Any, image: Array, coordinates: Array) -> Array | None:
    shape = xp.shape(image)
    return _rows_offset(xp, shape[0], math.prod(shape[1:-1]), coordinates)


def _rows_offset(xp: Any, batch: Any, rows: Any, coordinates: Array) -> Array | None:
    """Row at which each batch entry starts, shaped to broadcast over the field; None for a batch of one."""
    if isinstance(batch, int) and batch == 1:
        return None
    dtype = xp.index_dtype(batch * rows)
    offset = xp.arange(batch, dtype=dtype, like=coordinates) * xp.scalar(rows, dtype)
    return xp.reshape(offset, (batch,) + (1,) * (len(xp.shape(coordinates)) - 2))


def _taps(xp: Any, shape: tuple, coordinates: Array, rule: Rule, start: int) -> list[_Axis]:
    """Split coordinates into taps, axis by axis, for an image (of coefficients) with spatial `shape`."""
    ndim = len(shape)
    dtype = xp.index_dtype(math.prod(shape) * xp.shape(coordinates)[0])
    field = xp.shape(coordinates)[1:-1]
    axes = []
    for axis in range(ndim):
        position = xp.clip(coordinates[..., axis], -_FAR, _FAR)
        whole = xp.floor(position)
        fraction, index = position - whole, xp.cast(whole, dtype)
        if rule.relative:
            own = xp.arange(field[axis], dtype=dtype, like=coordinates) + (start if axis == 0 else 0)
            index = index + xp.reshape(own, (1,) * (axis + 1) + (field[axis],) + (1,) * (ndim - 1 - axis))
        stride = xp.scalar(math.prod(shape[axis + 1 :]), dtype)
        axes.append(_axis_taps(xp, index, fraction, shape[axis], rule, stride))
    return axes


def _axis_taps(xp: Any, index: Array, fraction: Array, count: Any, rule: Rule, stride: Any) -> _Axis:
    inside = None
    boundary: str = rule.boundary
    if boundary == "constant":
        # NaN is outside: it fails `fraction >= 0`.
        on_last = (index == count - 1) & (fraction == 0)
        inside = (index >= 0) & ((index < count - 1) | on_last) & (fraction >= 0)
    elif boundary == "wrap":
        index = _wrap(xp, index, fraction, count)
    if rule.order == 0:
        index = index + xp.cast(_rounds_up(xp, index, fraction, count, boundary), xp.dtype(index))
        return _Axis([fold(xp, index, count, boundary) * stride], [], [], inside)
    if rule.order == 1:
        # The second tap leaves a constant or wrapped image only with weight zero, so that clipping it will do.
        name = "nearest" if boundary in ("constant", "wrap") else boundary
        offsets = [fold(xp, index + k, count, name) * stride for k in (0, 1)]
        return _Axis(offsets, [fraction], [], inside)
    shift = EDGE if boundary == "nearest" else 0
    offsets = [fold(xp, index + (shift + k), count, boundary) * stride for k in (-1, 0, 1, 2)]
    return _Axis(offsets, *_cubic_weights(fraction), inside)


def _wrap(xp: Any, index: Array, fraction: Array, count: Any) -> Array:
    """SciPy's `wrap`: the last voxel lies on the first, and below zero the seam belongs to the last."""
    period = at_least(xp, count - 1, 1)
    wrapped = index % period
    seam = (index < 0) & (fraction == 0) & (wrapped == 0)
    last = (index == count - 1) & (fraction == 0)
    return xp.where(seam | last, wrapped * 0 + (count - 1), wrapped)


def _rounds_up(xp: Any, index: Array, fraction: Array, count: Any, boundary: str) -> Array:
    """Whether the nearest voxel is the next one; half-way ties turn round where SciPy reflects the coordinate."""
    if boundary == "reflect":
        turned = index % (2 * count) >= count
    elif boundary == "mirror":
        place = index % at_least(xp, 2 * count - 2, 1)
        turned = (place >= count) | ((place == count - 1) & (index < 0))
    else:
        return fraction >= 0.5
    return (fraction > 0.5) | ((fraction == 0.5) & ~turned)


def _cubic_weights(t: Array) -> tuple[list[Array], list[Array]]:
    """Weights of the four cubic B-splines around a fraction, and their derivatives."""
    s = 1 - t
    weights = [s * s * s / 6, (4 + t * t * (3 * t - 6)) / 6, (4 + s * s * (3 * s - 6)) / 6, t * t * t / 6]
    slopes = [-s * s / 2, t * (1.5 * t - 2), s * (2 - 1.5 * s), t * t / 2]
    return weights, slopes


def _visit(
    xp: Any, rows: Array, axes: list[_Axis], offset: Array | None, *, order: int, dtype: str | None, derivative: bool
) -> Any:
    """Contract the taps axis by axis, last axis innermost: `(values, one derivative per axis)`.

    Values are read in the image's data type and lifted to `dtype` before any arithmetic.
    """
    if not axes:
        values = xp.gather_rows(rows, offset)
        return (values if dtype is None else xp.cast(values, dtype)), []
    here, rest = axes[0], axes[1:]
    parts = [
        _visit(xp, rows, rest, tap if offset is None else offset + tap, order=order, dtype=dtype, derivative=derivative)
        for tap in here.offsets
    ]
    if order == 0:
        zero = [parts[0][0] * 0] if derivative else []
        return parts[0][0], zero + parts[0][1]
    values = [part[0] for part in parts]
    weights = [w[..., None] for w in here.weights]
    slopes: list[Array] = []
    if derivative:
        along = values[1] - values[0] if order == 1 else _mix(values, [w[..., None] for w in here.slopes])
        slopes = [along] + [_blend(list(column), weights, order) for column in zip(*(p[1] for p in parts), strict=True)]
    return _blend(values, weights, order), slopes


def _blend(values: list[Array], weights: list[Array], order: int) -> Array:
    if order == 1:
        return values[0] + weights[0] * (values[1] - values[0])
    return _mix(values, weights)


def _mix(values: list[Array], weights: list[Array]) -> Array:
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = total + value * weight
    return total


def _scatter(xp: Any, rows: Array, axes: list[_Axis], offset: Array | None, values: Array) -> Array:
    """Transpose of `_visit`: hand the values down the axes and add them up at the leaves."""
    if not axes:
        return xp.scatter_add_rows(rows, offset, values)
    here, rest = axes[0], axes[1:]
    weights = here.weights
    if len(here.offsets) == 2:
        weights = [1 - here.weights[0], here.weights[0]]
    for k, tap in enumerate(here.offsets):
        share = values * weights[k][..., None] if weights else values
        rows = _scatter(xp, rows, rest, tap if offset is None else offset + tap, share)
    return rows


def _fill(xp: Any, values: Array, axes: list[_Axis], fill_value: float) -> Array:
    inside = None
    for axis in axes:
        if axis.inside is not None:
            inside = axis.inside if inside is None else inside & axis.inside
    if inside is None:
        return values
    return xp.where(inside[..., None], values, xp.scalar(fill_value, xp.dtype(values)))


def _central_difference(xp: Any, image: Array, coordinates: Array, rule: Rule, start: int) -> Array:
    """Central difference of the extended image, interpolated at the coordinates, along each axis."""
    slopes = []
    for axis in range(xp.shape(coordinates)[-1]):
        one = [float(axis == k) for k in range(xp.shape(coordinates)[-1])]
        step = xp.asarray(one, dtype=xp.dtype(coordinates), like=coordinates)
        after = sample(xp, image, coordinates + step, rule, start)
        before = sample(xp, image, coordinates - step, rule, start)
        slopes.append((xp.cast(after, xp.dtype(step)) - xp.cast(before, xp.dtype(step))) / 2)
    return xp.stack(slopes, axis=-1)


def cast_like(xp: Any, values: Array, image: Array) -> Array:
    """Cast to the image's data type; integers are rounded and kept inside their range."""
    dtype = xp.dtype(image)
    if xp.dtype(values) == dtype:
        return values
    return xp.cast(values, dtype) if not xp.is_integer(dtype) else xp.round_to(values, dtype)
