"""NumPy: native kernels, else the portable primitives on blocks that fit the cache, several at a time.

No gradients, no framework.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from keramorph._typing import Array
from keramorph.backend import native, portable
from keramorph.backend.blocks import BLOCK, SMALL, list_steps, make_empty, map_blocks, run_blocks
from keramorph.backend.engine import Engine
from keramorph.backend.namespace import Namespace
from keramorph.backend.rule import Rule

_name_of = lru_cache(maxsize=None)(lambda dtype: dtype.name)  # NumPy spells the name out anew at each question


_PIECE, _NARROWEST = 1 << 18, 8
"""Multiplications up to which OpenBLAS starts no threads; rows or columns below which a piece is not worth a call."""


class _Namespace(Namespace):
    def dtype(self, x: Array) -> str:
        return _name_of(x.dtype)

    def cast(self, x: Array, dtype: str) -> Array:
        return x if _name_of(x.dtype) == dtype else x.astype(dtype)

    def flip(self, x: Array, axes: Sequence[int]) -> Array:
        return np.ascontiguousarray(np.flip(x, tuple(axes)))

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

    def unstack(self, x: Array) -> tuple[Array, ...]:
        # One behind the other: arithmetic on every third number costs NumPy three times as much.
        return tuple(np.ascontiguousarray(x[..., k]) for k in range(x.shape[-1]))

    def matmul(self, a: Array, b: Array) -> Array:
        # In pieces that the BLAS takes by itself. Its threads wait for each other while those of the kernels, or of
        # other programs, hold the cores: ten times as long on two busy ones. And sums depend on how many they are.
        (rows, inner), columns = a.shape[-2:], b.shape[-1]
        longest = max(rows, inner, columns)
        width = max(_NARROWEST, _PIECE * longest // max(1, rows * inner * columns))
        if width >= longest or a.dtype != b.dtype:
            return np.matmul(a, b)
        if inner == longest:
            parts = zip(_cut(a, -1, width), _cut(b, -2, width), strict=True)
            sums = sum(np.matmul(left, right).sum(axis=-3, dtype=np.float64) for left, right in parts)
            return sums.astype(a.dtype)
        product = np.empty((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), rows, columns), dtype=a.dtype)
        if rows == longest:
            for left, out in zip(_cut(a, -2, width), _cut(product, -2, width), strict=True):
                np.matmul(left, b[..., None, :, :], out=out)
        else:
            for right, out in zip(_cut(b, -1, width), _cut(product, -1, width), strict=True):
                np.matmul(a[..., None, :, :], right, out=out)
        return product

    def scatter_add_rows(self, rows: Array, index: Array, values: Array) -> Array:
        flat, columns = np.ravel(index), np.reshape(values, (-1, rows.shape[-1]))
        # bincount adds in float64, far faster than ufunc.at.
        for channel in range(rows.shape[-1]):
            weights = np.bincount(flat, columns[:, channel], minlength=rows.shape[0])
            rows[:, channel] += weights.astype(rows.dtype)
        return rows


def _cut(x: Array, axis: int, width: int) -> tuple[Array, Array]:
    """Views of pieces of so many rows (axis -2) or columns (-1), one after the other along axis -3, and of the rest."""
    count = x.shape[axis] // width
    shape, strides = [*x.shape[:-2], count, *x.shape[-2:]], [*x.strides[:-2], width * x.strides[axis], *x.strides[-2:]]
    shape[axis] = width
    rest = x[..., None, :, count * width :] if axis == -1 else x[..., None, count * width :, :]
    return np.lib.stride_tricks.as_strided(x, shape, strides), rest


xp = _Namespace(np)


class NumpyEngine(Engine):
    """Primitives on NumPy arrays."""

    name = "numpy"
    xp = xp

    def _sample(self, image: Array, coordinates: Array, rule: Rule) -> Array:
        lifted, coordinates, plan = _plan(image, coordinates, rule)
        if plan is None:
            return _sample_in_blocks(image, coordinates, rule)
        values = make_empty((*coordinates.shape[:-1], image.shape[-1]), lifted.dtype)
        _kernels().sample(plan, lifted, coordinates, values, False)
        return _cast_back(values, image)

    def _sample_with_derivative(self, image: Array, coordinates: Array, rule: Rule) -> tuple[Array, Array]:
        lifted, coordinates, plan = _plan(image, coordinates, rule)
        if plan is None or rule.order == 0:
            return _sample_with_derivative_in_blocks(image, coordinates, rule)
        values = make_empty((*coordinates.shape[:-1], image.shape[-1]), lifted.dtype)
        slopes = make_empty((*values.shape, coordinates.shape[-1]), coordinates.dtype)
        _kernels().sample_with_derivative(plan, lifted, coordinates, values, slopes)
        return _cast_back(values, image), slopes

    def _pull_back(self, image: Array, coordinates: Array, cotangent: Array, rule: Rule) -> Array:
        lifted, coordinates, plan = _plan(image, coordinates, rule)
        if plan is None or rule.order == 0:
            with _ignore_nan():
                return super()._pull_back(image, coordinates, cotangent, rule)
        gradient = make_empty(coordinates.shape, coordinates.dtype)
        cotangent = _lay_out(xp.cast(cotangent, xp.dtype(lifted)))
        _kernels().pull_back(plan, lifted, coordinates, cotangent, gradient)
        return gradient

    def _compose(self, outer: Array, inner: Array) -> Array:
        outer, inner, plan = _plan(outer, inner, Rule(relative=True))
        if plan is None or outer.shape[-1] != inner.shape[-1]:
            return super()._compose(outer, inner)
        composed = make_empty(inner.shape, inner.dtype)
        _kernels().sample(plan, outer, inner, composed, True)
        return composed

    def _splat(self, values: Array, coordinates: Array, shape: tuple, rule: Rule) -> Array:
        sizes = (values.shape[0], *shape, values.shape[-1])
        lifted, coordinates, plan = _plan(values, coordinates, rule, sizes)
        if plan is None or values.shape[:-1] != coordinates.shape[:-1]:
            with _ignore_nan():
                return super()._splat(values, coordinates, shape, rule)
        image = make_empty(sizes, lifted.dtype)
        _kernels().splat(plan, lifted, coordinates, image)
        return _cast_back(image, values)

    def _window_sum(self, array: Array, size: tuple[int, ...]) -> Array:
        plan = _plan_volume(array)
        if plan is None:
            return _filter(array, size, 1, portable.window_sum)
        total = make_empty(array.shape, array.dtype)
        _kernels().window_sum(plan, size, _lay_out(array), total)
        return total

    def _gaussian(self, array: Array, sigma: tuple[float, ...]) -> Array:
        plan = _plan_volume(array)
        if plan is None:
            return _filter(array, sigma, 0.0, portable.gaussian)
        smoothed = make_empty(array.shape, array.dtype)
        _kernels().gaussian(plan, sigma, _lay_out(array), smoothed)
        return smoothed

    def lncc(
        self, fixed: Array, moved: Array, weight: Array, *, size: tuple[int, ...], floor: float, least: float
    ) -> tuple[Array, Array, Array] | None:
        """Squared local correlation of two images, as `Engine.lncc` says; None where the kernel does not fit."""
        plan = _plan_volume(moved)
        if plan is None or not moved.dtype == fixed.dtype == weight.dtype:
            return None
        similarity = np.empty(len(moved), np.float64)
        derivative, curvature = (make_empty(moved.shape, moved.dtype) for _ in range(2))
        images = (_lay_out(array) for array in (fixed, moved, weight))
        _kernels().lncc(plan, size, floor, least, *images, similarity, derivative, curvature)
        return similarity.astype(moved.dtype), derivative, curvature

    def fuses_lncc(self, array: Array) -> bool:
        """Whether there is a kernel for images like this one."""
        return _plan_volume(array) is not None

    def locate(self, displacement: Array, matrix: np.ndarray, *, shape: tuple[int, ...]) -> tuple[Array, Array] | None:
        """Where an affine map takes displaced voxels, as `Engine.locate` says; None where the kernel does not fit."""
        if _plan_volume(displacement) is None:
            return None
        positions = make_empty(displacement.shape, displacement.dtype)
        inside = make_empty((*displacement.shape[:-1], 1), displacement.dtype)
        for one, (field, *results) in _part(matrix, _lay_out(displacement), positions, inside):
            _kernels().locate(_plan_volume(field), one[:-1].ravel().tolist(), shape, field, *results)
        return positions, inside

    def push(self, slope: Array, derivative: Array, curvature: Array, matrix: np.ndarray) -> Array | None:
        """Force and stiffness, as `Engine.push` says; None where the kernel does not fit."""
        if _plan_volume(slope) is None or not slope.dtype == derivative.dtype == curvature.dtype:
            return None
        pushed = make_empty((*slope.shape[:-1], slope.shape[-1] + 1), slope.dtype)
        arrays = (_lay_out(array) for array in (slope, derivative, curvature))
        for one, parts in _part(matrix, *arrays, pushed):
            _kernels().push(_plan_volume(parts[0]), one.ravel().tolist(), *parts)
        return pushed

    def limit(self, pushed: Array, matrix: np.ndarray, *, damping: Array, most: float) -> Array | None:
        """The step, as `Engine.limit` says; None where the kernel does not fit."""
        shape = (*pushed.shape[:-1], pushed.shape[-1] - 1)
        if _plan_volume(pushed, shape) is None:
            return None
        update = make_empty(shape, pushed.dtype)
        parts = zip(_part(matrix, _lay_out(pushed), update), np.ravel(damping).tolist(), strict=True)
        for (one, (push, step)), extra in parts:
            _kernels().limit(_plan_volume(step), one.ravel().tolist(), extra, most, push, step)
        return update

    def add_blocks(
        self, images: Sequence[Any], displacement: Array, matrix: np.ndarray, to_push: np.ndarray
    ) -> tuple[Array, Array, Array] | None:
        """What blocks of voxels add up to, as `Engine.add_blocks` says; None where the kernel does not fit."""
        fixed, moving, *_ = images
        volume = _plan_volume(fixed)
        if volume is None or any(image is not None and image.dtype != fixed.dtype for image in (*images, displacement)):
            return None
        counts, ndim = displacement.shape[1:-1], displacement.shape[-1]
        bend = matrix[:-1, :-1] * (np.asarray(fixed.shape[1:-1]) / np.asarray(counts))
        numbers = (each.ravel().tolist() for each in (matrix[:-1], bend, to_push))
        plan = _kernels().BlockPlan(volume, counts, moving.shape[1:-1], *numbers)
        sums = [make_empty((*displacement.shape[:-1], n), fixed.dtype) for n in (3, 1, 3 * ndim + 1)]
        still, moved, *masks = (None if image is None else _lay_out(image) for image in images)
        _kernels().add_blocks(plan, still, masks[0], moved, masks[1], _lay_out(displacement), *sums)
        return sums[0], sums[1], sums[2]

    def map_blocks(self, function: Callable, *arrays: Array, halo: int = 0) -> Any:
        """The function of the arrays, as `Engine.map_blocks` says, in blocks and threads."""
        return map_blocks(function, arrays, halo=halo)

    def _to_coefficients(self, image: Array, rule: Rule) -> Array:
        if rule.order != 3:
            return image
        array = image if xp.dtype(image) in ("float32", "float64") else image.astype(np.float32)
        plan = _plan_volume(array)
        if plan is None:
            return super()._to_coefficients(image, rule)
        shape = native.shape_of_coefficients(array.shape, rule.boundary)
        return self._prefilter(plan, array, shape, rule, adjoint=False)

    def _from_coefficients(self, coefficients: Array, rule: Rule) -> Array:
        if rule.order != 3:
            return coefficients
        shape = native.shape_of_coefficients(coefficients.shape, rule.boundary, adjoint=True)
        plan = _plan_volume(coefficients, shape)
        if plan is None:
            return super()._from_coefficients(coefficients, rule)
        return self._prefilter(plan, coefficients, shape, rule, adjoint=True)

    def _prefilter(self, plan: Any, array: Array, shape: tuple, rule: Rule, *, adjoint: bool) -> Array:
        result = make_empty(shape, array.dtype)
        _kernels().prefilter(plan, native.BOUNDARIES.index(rule.boundary), adjoint, _lay_out(array), result)
        return result


def _ignore_nan() -> np.errstate:
    """No warning where NaN, of a coordinate or a value, becomes an integer: what stands there then is not defined."""
    return np.errstate(invalid="ignore", over="ignore")


def _cast_back(values: Array, image: Array) -> Array:
    if values.dtype == image.dtype:
        return values
    with _ignore_nan():
        return portable.cast_like(xp, values, image)


def _kernels() -> Any:
    return native.extension()


def _plan(image: Array, coordinates: Array, rule: Rule, sizes: tuple | None = None) -> tuple[Array, Array, Any]:
    """What a kernel takes, laid out for it, and its plan; None instead of a plan where no kernel fits.

    With `sizes`, those of an image, the first array holds values to be added up on it.
    """
    if not (image.dtype.isnative and coordinates.dtype.isnative):
        return image, coordinates, None
    order = rule.order if sizes is None else rule.order or 1
    kind = native.reading_type(xp.dtype(image), xp.dtype(coordinates), order)
    shapes = (sizes or image.shape, coordinates.shape)
    plan = native.plan_sampling((kind, xp.dtype(coordinates)), shapes, native.fields_of(rule))
    if plan is None:
        return image, coordinates, None
    return _lay_out(xp.cast(image, kind)), _lay_out(coordinates), plan


def _plan_volume(array: Array, shape: tuple | None = None) -> Any:
    return native.plan_volume(xp.dtype(array), shape or array.shape) if array.dtype.isnative else None


def _part(matrix: np.ndarray, *arrays: Array) -> Iterator[tuple[np.ndarray, Sequence[Array]]]:
    """What a kernel that takes one matrix gets: it and the whole batch, or each of several and its entry of that."""
    if matrix.ndim == 2 or len(matrix) == 1:
        yield matrix.reshape(matrix.shape[-2:]), arrays
        return
    for k, one in enumerate(matrix):
        yield one, [array[k : k + 1] for array in arrays]


def _lay_out(array: Array) -> Array:
    """The array itself, or a copy if its elements do not lie one behind the other, where the processor wants them."""
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else np.array(array, order="C")


def _sample_in_blocks(image: Array, coordinates: Array, rule: Rule) -> Array:
    values = np.empty((*coordinates.shape[:-1], image.shape[-1]), dtype=image.dtype)

    def work(batch: slice, rows: slice) -> None:
        values[batch, rows] = portable.sample(xp, image[batch], coordinates[batch, rows], rule, rows.start)

    _run(work, coordinates.shape)
    return values


def _sample_with_derivative_in_blocks(image: Array, coordinates: Array, rule: Rule) -> tuple[Array, Array]:
    values = np.empty((*coordinates.shape[:-1], image.shape[-1]), dtype=image.dtype)
    slopes = np.empty((*values.shape, coordinates.shape[-1]), dtype=coordinates.dtype)

    def work(batch: slice, rows: slice) -> None:
        values[batch, rows], slopes[batch, rows] = portable.sample_with_derivative(
            xp, image[batch], coordinates[batch, rows], rule, rows.start
        )

    _run(work, coordinates.shape)
    return values, slopes


def _filter(array: Array, width: tuple, idle: Any, function: Callable) -> Array:
    """Filter one axis after the other, each in blocks cut along another axis."""
    for axis, extent in enumerate(width):
        if extent == idle:
            continue
        alone = tuple(extent if k == axis else idle for k in range(len(width)))
        array = _filter_axis(array, axis + 1, alone, function)
    return array


def _run(work: Callable[[slice, slice], None], shape: tuple[int, ...]) -> None:
    """Call `work(batch, rows)` for blocks of a field of coordinates `(batch, rows, ..., ndim)`."""
    if math.prod(shape[:-1]) <= SMALL:
        run_blocks(work, [(slice(0, shape[0]), slice(0, shape[1]))])
        return
    step = max(1, BLOCK // max(1, math.prod(shape[2:-1])))
    run_blocks(work, [(slice(b, b + 1), rows) for b in range(shape[0]) for rows in list_steps(shape[1], step)])


def _filter_axis(array: Array, axis: int, width: tuple, function: Callable) -> Array:
    """Filter along one axis, in blocks cut along the first other spatial axis, batch entry by batch entry."""
    if array.size <= SMALL:
        return function(xp, array, width)
    across = 1 if axis != 1 else 2
    if across == array.ndim - 1:
        return function(xp, array, width)
    result = np.empty_like(array)
    step = max(1, BLOCK * array.shape[across] // max(1, math.prod(array.shape[1:])))

    def work(batch: slice, rows: slice) -> None:
        place = (batch, rows) if across == 1 else (batch, slice(None), rows)
        result[place] = function(xp, array[place], width)

    run_blocks(
        work, [(slice(b, b + 1), rows) for b in range(array.shape[0]) for rows in list_steps(array.shape[across], step)]
    )
    return result


engine = NumpyEngine()
