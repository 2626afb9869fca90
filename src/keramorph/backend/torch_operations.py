"""PyTorch's custom operations `keramorph::...`: on CPUs the native kernels on the memory of tensors, without a copy.

On CUDA tensors they are those of `triton_operations.py`, which is imported when the first one turns up. They know
nothing of gradients: the rules stand in `torch.py`. Each has a fake kernel, from which `torch.compile` learns the shape
of its result, and folds an axis of `vmap` into the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from keramorph._typing import Array
from keramorph.backend import native, portable
from keramorph.backend.rule import Rule
from keramorph.backend.torch_namespace import DTYPES, NAMES, xp
from keramorph.errors import ShapeError

_RULE = "int order, str boundary, float fill_value, bool relative, str gradient"
_TERMS = "int measure, int extent, int dilation, bool variant"
_SCHEMAS = {
    "sample": f"(Tensor image, Tensor coordinates, bool plus, {_RULE}) -> Tensor",
    "sample_with_derivative": f"(Tensor image, Tensor coordinates, {_RULE}) -> (Tensor, Tensor)",
    "pull_back": f"(Tensor image, Tensor coordinates, Tensor cotangent, {_RULE}) -> Tensor",
    "splat": f"(Tensor values, Tensor coordinates, SymInt[] shape, {_RULE}) -> Tensor",
    "window_sum": "(Tensor array, SymInt[] size) -> Tensor",
    "gaussian": "(Tensor array, float[] sigma) -> Tensor",
    "prefilter": "(Tensor array, str boundary, bool adjoint) -> Tensor",
    "compare": f"(Tensor fixed, Tensor moved, {_TERMS}) -> Tensor",
    "compare_with_derivative": f"(Tensor fixed, Tensor moved, {_TERMS}) -> (Tensor, Tensor)",
}


def _sample(image: Array, coordinates: Array, plus: bool, *rule: Any) -> Array:
    image_as_read, coordinates, plan = _plan(image, coordinates, rule, image.shape, rule[0])
    if plan is None:
        values = portable.sample(xp, image, coordinates, Rule(*rule))
        return coordinates + values if plus else values
    values = _empty((*coordinates.shape[:-1], image.shape[-1]), image_as_read.dtype)
    _kernels.sample(plan, image_as_read.data_ptr(), coordinates.data_ptr(), values.data_ptr(), plus)
    return values if values.dtype == image.dtype else portable.cast_like(xp, values, image)


def _sample_with_derivative(image: Array, coordinates: Array, *rule: Any) -> tuple[Array, Array]:
    image_as_read, coordinates, plan = _plan(image, coordinates, rule, image.shape, rule[0])
    if plan is None or rule[0] == 0:
        return portable.sample_with_derivative(xp, image, coordinates, Rule(*rule))
    values = _empty((*coordinates.shape[:-1], image.shape[-1]), image_as_read.dtype)
    slopes = _empty((*values.shape, coordinates.shape[-1]), coordinates.dtype)
    _kernels.sample_with_derivative(
        plan, image_as_read.data_ptr(), coordinates.data_ptr(), values.data_ptr(), slopes.data_ptr()
    )
    return portable.cast_like(xp, values, image), slopes


def _pull_back(image: Array, coordinates: Array, cotangent: Array, *rule: Any) -> Array:
    image_as_read, coordinates, plan = _plan(image, coordinates, rule, image.shape, rule[0])
    if plan is None or rule[0] == 0:
        return portable.pull_back(xp, image, coordinates, cotangent, Rule(*rule))
    cotangent = cotangent.to(image_as_read.dtype).contiguous()
    gradient = _empty(coordinates.shape, coordinates.dtype)
    _kernels.pull_back(
        plan, image_as_read.data_ptr(), coordinates.data_ptr(), cotangent.data_ptr(), gradient.data_ptr()
    )
    return gradient


def _splat(values: Array, coordinates: Array, shape: list[int], *rule: Any) -> Array:
    sizes = (values.shape[0], *shape, values.shape[-1])
    values_as_read, coordinates, plan = _plan(values, coordinates, rule, sizes, rule[0] or 1)
    if plan is None or values.shape[:-1] != coordinates.shape[:-1]:
        return portable.splat(xp, values, coordinates, tuple(shape), Rule(*rule))
    image = _empty(sizes, values_as_read.dtype)
    _kernels.splat(plan, values_as_read.data_ptr(), coordinates.data_ptr(), image.data_ptr())
    return portable.cast_like(xp, image, values)


def _window_sum(array: Array, size: list[int]) -> Array:
    return _filter(_kernels.window_sum, portable.window_sum, array, size)


def _gaussian(array: Array, sigma: list[float]) -> Array:
    return _filter(_kernels.gaussian, portable.gaussian, array, sigma)


def _prefilter(array: Array, boundary: str, adjoint: bool) -> Array:
    grown = native.shape_of_coefficients(array.shape, boundary, adjoint=adjoint)
    plan = native.plan_volume(NAMES[array.dtype], grown if adjoint else tuple(array.shape))
    if plan is None:
        function = portable.from_coefficients if adjoint else portable.to_coefficients
        return function(xp, array, Rule(3, boundary))  # type: ignore[arg-type]
    array, result = array.contiguous(), _empty(grown, array.dtype)
    _kernels.prefilter(plan, native.BOUNDARIES.index(boundary), adjoint, array.data_ptr(), result.data_ptr())
    return result


def _compare(fixed: Array, moved: Array, *terms: Any) -> Array:
    return _fill_values(fixed, moved, terms, None)


def _compare_with_derivative(fixed: Array, moved: Array, *terms: Any) -> tuple[Array, Array]:
    derivative = _empty(moved.shape, moved.dtype)
    return _fill_values(fixed, moved, terms, derivative.data_ptr()), derivative


def _fill_values(fixed: Array, moved: Array, terms: tuple, derivative: int | None) -> Array:
    """Values of a comparison, whose formula is unknown here: the engine calls where there is a kernel alone."""
    plan = native.plan_volume(NAMES[moved.dtype], tuple(moved.shape))
    if plan is None or fixed.shape != moved.shape or fixed.dtype != moved.dtype:
        raise ShapeError(
            "A kernel compares two images of one shape and type, of at least one and fewer than 2**30 elements. "
            f"Received: fixed.shape={tuple(fixed.shape)}, moved.shape={tuple(moved.shape)}. "
            "Set KERAMORPH_KERNELS=off for other ones."
        )
    fixed, moved, values = fixed.contiguous(), moved.contiguous(), torch.empty(len(moved), dtype=moved.dtype)
    _kernels.compare(plan, *terms, fixed.data_ptr(), moved.data_ptr(), values.data_ptr(), derivative)
    return values


def _filter(kernel: Callable, primitive: Callable, array: Array, width: list) -> Array:
    plan = native.plan_volume(NAMES[array.dtype], tuple(array.shape))
    if plan is None:
        return primitive(xp, array, tuple(width))
    array, result = array.contiguous(), _empty(array.shape, array.dtype)
    kernel(plan, width, array.data_ptr(), result.data_ptr())
    return result


def _plan(array: Array, coordinates: Array, rule: tuple, sizes: tuple, order: int) -> tuple[Array, Array, Any]:
    """An array in the type in which a kernel reads it, both laid out for it, and its plan; None where none fits."""
    types = NAMES[array.dtype], NAMES[coordinates.dtype]
    kind = native.reading_type(*types, order)
    plan = native.plan_sampling((kind, types[1]), (tuple(sizes), tuple(coordinates.shape)), rule)
    if plan is None:
        return array, coordinates, None
    if kind != types[0]:
        array = array.to(DTYPES[kind])
    return array.contiguous(), coordinates.contiguous(), plan


def _empty(shape: tuple, dtype: torch.dtype) -> Array:
    """A tensor to be written, in recycled memory if it is large."""
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size < native.RECYCLED:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(_kernels.Memory(size), dtype=dtype, count=count).view(shape)


def _fake_sample(image: Array, coordinates: Array, plus: bool, *rule: Any) -> Array:
    return image.new_empty((*coordinates.shape[:-1], image.shape[-1]))


def _fake_sample_with_derivative(image: Array, coordinates: Array, *rule: Any) -> tuple[Array, Array]:
    values = image.new_empty((*coordinates.shape[:-1], image.shape[-1]))
    return values, coordinates.new_empty((*values.shape, coordinates.shape[-1]))


def _fake_pull_back(image: Array, coordinates: Array, cotangent: Array, *rule: Any) -> Array:
    return coordinates.new_empty(coordinates.shape)


def _fake_splat(values: Array, coordinates: Array, shape: list[int], *rule: Any) -> Array:
    return values.new_empty((values.shape[0], *shape, values.shape[-1]))


def _fake_filter(array: Array, width: list) -> Array:
    return array.new_empty(array.shape)


def _fake_prefilter(array: Array, boundary: str, adjoint: bool) -> Array:
    return array.new_empty(native.shape_of_coefficients(array.shape, boundary, adjoint=adjoint))


def _fake_compare(fixed: Array, moved: Array, *terms: Any) -> Array:
    return moved.new_empty(moved.shape[:1])


def _fake_compare_with_derivative(fixed: Array, moved: Array, *terms: Any) -> tuple[Array, Array]:
    return moved.new_empty(moved.shape[:1]), moved.new_empty(moved.shape)


def _fold(operation: Callable) -> Callable:
    """Rule of `vmap`: the mapped axis joins the batch, which stands first in all tensors."""

    def mapped(info: Any, in_dims: tuple, *arguments: Any) -> tuple[Any, Any]:
        count = info.batch_size
        folded = []
        for argument, axis in zip(arguments, in_dims, strict=True):
            if isinstance(argument, torch.Tensor):
                moved = argument.expand(count, *argument.shape) if axis is None else argument.movedim(axis, 0)
                argument = moved.reshape(-1, *moved.shape[2:])
            folded.append(argument)
        results = operation(*folded)
        several = isinstance(results, tuple)
        parted = [r.unflatten(0, (count, -1)) for r in (results if several else (results,))]
        return (tuple(parted), (0,) * len(parted)) if several else (parted[0], 0)

    return mapped


def _on_gpu(name: str) -> Callable:
    """The operation's Triton kernel, imported at its first call: that takes a second, which only a GPU is worth."""

    def operation(*arguments: Any) -> Any:
        from keramorph.backend import triton_operations

        return getattr(triton_operations, name)(*arguments)

    return operation


_FAKES = {
    "sample": _fake_sample,
    "sample_with_derivative": _fake_sample_with_derivative,
    "pull_back": _fake_pull_back,
    "splat": _fake_splat,
    "window_sum": _fake_filter,
    "gaussian": _fake_filter,
    "prefilter": _fake_prefilter,
    "compare": _fake_compare,
    "compare_with_derivative": _fake_compare_with_derivative,
}


class _Operations:
    """The overload of each operation, looked up once: finding it anew costs as much as calling it."""

    def __init__(self) -> None:
        self.library = torch.library.Library("keramorph", "DEF")
        for name, schema in _SCHEMAS.items():
            self.library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
            if _kernels is not None:
                self.library.impl(name, globals()[f"_{name}"], "CPU")
            if native.has_triton():
                self.library.impl(name, _on_gpu(name), "CUDA")
            torch.library.register_fake(f"keramorph::{name}", _FAKES[name], lib=self.library)
            overload = getattr(torch.ops.keramorph, name).default
            torch.library.register_vmap(f"keramorph::{name}", _fold(overload), lib=self.library)
            setattr(self, name, overload)


_kernels: Any = native.extension()
operations: Any = _Operations()
