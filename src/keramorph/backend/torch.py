"""PyTorch: the gradient rules of sampling and smoothing, over the native kernels or the portable primitives.

A kernel, native on CPUs and Triton's on GPUs, stands behind a custom operation (`torch_operations.py`), which
`torch.compile` keeps as one node of its graph. Everything else, meta tensors and subclasses, computes the portable way,
which compilers can fuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from keramorph._typing import Array
from keramorph.backend import native, portable
from keramorph.backend.engine import Engine
from keramorph.backend.namespace import Namespace
from keramorph.backend.native import fields_of
from keramorph.backend.rule import Rule

_NAMES = {kind: str(kind).removeprefix("torch.") for kind in vars(torch).values() if isinstance(kind, torch.dtype)}


class _Namespace(Namespace):
    """NumPy's names over torch: axes are called `dim` there, and some functions differ in more than that."""

    def __init__(self) -> None:
        for name in ("reshape", "broadcast_to", "floor", "abs", "sqrt", "exp", "log", "sin", "cos", "tanh", "arctan2"):
            setattr(self, name, getattr(torch, name))
        for name in ("maximum", "minimum", "matmul", "einsum", "round"):
            setattr(self, name, getattr(torch, name))
        self.inv = torch.linalg.inv
        self.clip = torch.clamp

    def asarray(self, x: Any, *, dtype: str | None = None, like: Array | None = None) -> Array:
        device = like.device if isinstance(like, torch.Tensor) else None
        kind = None if dtype is None else getattr(torch, dtype)
        if isinstance(x, np.ndarray) and not x.flags.writeable:
            x = x.copy()  # torch would share it, and warn that it cannot keep it from being written
        return torch.as_tensor(x, dtype=kind, device=device)

    def dtype(self, x: Array) -> str:
        return _NAMES[x.dtype]

    def cast(self, x: Array, dtype: str) -> Array:
        return x.to(getattr(torch, dtype))

    def arange(self, count: Any, *, dtype: str, like: Array | None = None) -> Array:
        return torch.arange(count, dtype=getattr(torch, dtype), device=None if like is None else like.device)

    def zeros(self, shape: Sequence[Any], *, dtype: str, like: Array | None = None) -> Array:
        return torch.zeros(tuple(shape), dtype=getattr(torch, dtype), device=None if like is None else like.device)

    def round_to(self, x: Array, dtype: str) -> Array:
        if dtype == "bool":
            return x >= 0.5
        limits = torch.iinfo(getattr(torch, dtype))
        return torch.clamp(torch.round(x), limits.min, limits.max).to(getattr(torch, dtype))

    def transpose(self, x: Array, axes: Sequence[int]) -> Array:
        return x.permute(tuple(axes))

    def concatenate(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        return torch.cat(tuple(arrays), dim=axis)

    def stack(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        return torch.stack(tuple(arrays), dim=axis)

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        return torch.where(condition, a, b)

    def sum(self, x: Array, axis: Any = None, keepdims: bool = False) -> Array:
        return torch.sum(x) if axis is None and not keepdims else torch.sum(x, dim=axis, keepdim=keepdims)

    def mean(self, x: Array, axis: Any = None, keepdims: bool = False) -> Array:
        return torch.mean(x) if axis is None and not keepdims else torch.mean(x, dim=axis, keepdim=keepdims)

    def max(self, x: Array, axis: Any = None, keepdims: bool = False) -> Array:
        return torch.amax(x, dim=() if axis is None else axis, keepdim=keepdims)

    def min(self, x: Array, axis: Any = None, keepdims: bool = False) -> Array:
        return torch.amin(x, dim=() if axis is None else axis, keepdim=keepdims)

    def cumsum(self, x: Array, axis: int) -> Array:
        return torch.cumsum(x, dim=axis)

    def take(self, x: Array, index: Array, axis: int) -> Array:
        return torch.index_select(x, axis, index)

    def pad(self, x: Array, widths: Sequence[tuple[int, int]]) -> Array:
        return torch.nn.functional.pad(x, [n for pair in reversed(list(widths)) for n in pair])

    def gather_rows(self, rows: Array, index: Array) -> Array:
        return torch.index_select(rows, 0, index.reshape(-1)).reshape(*index.shape, rows.shape[-1])

    def scatter_add_rows(self, rows: Array, index: Array, values: Array) -> Array:
        return torch.index_add(rows, 0, index.reshape(-1), values.reshape(-1, rows.shape[-1]))

    def stop_gradient(self, x: Array) -> Array:
        return x.detach()


class TorchEngine(Engine):
    """Primitives on PyTorch tensors."""

    name = "torch"
    xp = _Namespace()

    def _sample(self, image: Array, coordinates: Array, rule: Rule) -> Array:
        if image is coordinates:  # as in squaring; torch.compile traces no function that is handed one tensor twice
            coordinates = coordinates.view_as(coordinates)
        return _apply(_Sample, image, coordinates, rule, False)

    def _sample_with_derivative(self, image: Array, coordinates: Array, rule: Rule) -> tuple[Array, Array]:
        if _has_kernel(image, coordinates) and not _is_differentiated(image, coordinates):
            return _operations.sample_with_derivative(image, coordinates, *fields_of(rule))
        return portable.sample_with_derivative(xp, image, coordinates, rule)

    def _pull_back(self, image: Array, coordinates: Array, cotangent: Array, rule: Rule) -> Array:
        return _apply(_PullBack, image, coordinates, cotangent, rule)

    def _compose(self, outer: Array, inner: Array) -> Array:
        if outer is inner:
            inner = inner.view_as(inner)
        return _apply(_Sample, outer, inner, Rule(relative=True), True)

    def _splat(self, values: Array, coordinates: Array, shape: tuple, rule: Rule) -> Array:
        return _apply(_Splat, values, coordinates, shape, rule)

    def _window_sum(self, array: Array, size: tuple[int, ...]) -> Array:
        return _apply(_SelfAdjoint, array, "window_sum", size)

    def _gaussian(self, array: Array, sigma: tuple[float, ...]) -> Array:
        return _apply(_SelfAdjoint, array, "gaussian", sigma)

    def lncc(
        self, fixed: Array, moved: Array, weight: Array, *, size: tuple[int, ...], floor: float, least: float
    ) -> tuple[Array, Array, Array] | None:
        """Squared local correlation of two images on a GPU, as `Engine.lncc` says; None where no kernel fits."""
        images = fixed, moved, weight
        if not all(image.is_cuda for image in images) or not _has_kernel(*images) or _is_differentiated(*images):
            return None
        from keramorph.backend import triton_operations

        return triton_operations.lncc(*images, size=size, floor=floor, least=least)

    def _to_coefficients(self, image: Array, rule: Rule) -> Array:
        if rule.order != 3:
            return image
        return _apply(_Prefilter, image if image.dtype in _FLOATS else image.float(), rule, False)

    def _from_coefficients(self, coefficients: Array, rule: Rule) -> Array:
        if rule.order != 3:
            return coefficients
        return _apply(_Prefilter, coefficients, rule, True)


engine = TorchEngine()
xp = engine.xp

_FLOATS = (torch.float32, torch.float64)
_PLAIN = (torch.Tensor, torch.nn.Parameter)

# Devices whose kernels are registered, all under the same names.
_DEVICES = ("cpu",) * (native.extension() is not None) + ("cuda",) * native.has_triton()
_operations: Any = None
if _DEVICES:
    from keramorph.backend.torch_operations import operations as _operations


def _has_kernel(*tensors: Array) -> bool:
    return all(t.device.type in _DEVICES and type(t) in _PLAIN for t in tensors)


def _is_differentiated(*tensors: Array) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


# Absent from some future PyTorch, each call would take the general way.
_is_transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def _apply(function: type[torch.autograd.Function], *inputs: Any) -> Array:
    """Apply a function by its twin that is written as `torch.func` and `torch.compile` cannot have it, where it may be.

    For a function with `setup_context` PyTorch inspects the signature at each call: 0.1 ms, more than a small kernel.
    """
    if torch.compiler.is_compiling() or _is_transformed():
        return function.apply(*inputs)
    return _TWINS[function].apply(*inputs)


def _make_twin(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    def forward(ctx: Any, *inputs: Any) -> Array:
        output = function.forward(*inputs)
        function.setup_context(ctx, inputs, output)
        return output

    return type(
        function.__name__,
        (torch.autograd.Function,),
        {"forward": staticmethod(forward), "backward": staticmethod(function.backward)},
    )


class _Sample(torch.autograd.Function):
    """Sampling; with `plus`, the coordinates are added to the values: the composition of displacements."""

    generate_vmap_rule = True

    @staticmethod
    def forward(image: Array, coordinates: Array, rule: Rule, plus: bool) -> Array:
        if _has_kernel(image, coordinates):
            return _operations.sample(image, coordinates, plus, *fields_of(rule))
        values = portable.sample(xp, image, coordinates, rule)
        return coordinates + values if plus else values

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Array) -> None:
        image, coordinates, ctx.rule, ctx.plus = inputs
        ctx.save_for_backward(image, coordinates)

    @staticmethod
    def backward(ctx: Any, cotangent: Array) -> tuple:
        image, coordinates = ctx.saved_tensors
        to_image = to_coordinates = None
        if ctx.needs_input_grad[0]:
            to_image = _apply(_Splat, cotangent, coordinates, tuple(image.shape[1:-1]), ctx.rule.without_fill())
        if ctx.needs_input_grad[1]:
            to_coordinates = _apply(_PullBack, image, coordinates, cotangent, ctx.rule)
            if ctx.plus:
                to_coordinates = to_coordinates + cotangent
        return to_image, to_coordinates, None, None


class _PullBack(torch.autograd.Function):
    """Gradient of a sample to its coordinates. Its own derivative is that of the portable primitive."""

    generate_vmap_rule = True

    @staticmethod
    def forward(image: Array, coordinates: Array, cotangent: Array, rule: Rule) -> Array:
        if _has_kernel(image, coordinates, cotangent):
            return _operations.pull_back(image, coordinates, cotangent, *fields_of(rule))
        return portable.pull_back(xp, image, coordinates, cotangent, rule)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Array) -> None:
        *arrays, ctx.rule = inputs
        ctx.save_for_backward(*arrays)

    @staticmethod
    def backward(ctx: Any, cotangent: Array) -> tuple:
        def primitive(image: Array, coordinates: Array, weight: Array) -> Array:
            return portable.pull_back(xp, image, coordinates, weight, ctx.rule)

        _, pull = torch.func.vjp(primitive, *ctx.saved_tensors)
        return *pull(cotangent), None


class _Splat(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(values: Array, coordinates: Array, shape: tuple, rule: Rule) -> Array:
        if _has_kernel(values, coordinates):
            return _operations.splat(values, coordinates, shape, *fields_of(rule))
        return portable.splat(xp, values, coordinates, shape, rule)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Array) -> None:
        values, coordinates, _, ctx.rule = inputs
        ctx.save_for_backward(values, coordinates)

    @staticmethod
    def backward(ctx: Any, cotangent: Array) -> tuple:
        values, coordinates = ctx.saved_tensors
        to_values = to_coordinates = None
        if ctx.needs_input_grad[0]:
            to_values = _apply(_Sample, cotangent, coordinates, ctx.rule, False)
        if ctx.needs_input_grad[1]:
            to_coordinates = _apply(_PullBack, cotangent, coordinates, values, ctx.rule)
        return to_values, to_coordinates, None, None


class _SelfAdjoint(torch.autograd.Function):
    """A linear filter that is its own adjoint: the gradient is the filter again, to any order."""

    generate_vmap_rule = True

    @staticmethod
    def forward(array: Array, name: str, width: tuple) -> Array:
        if _has_kernel(array):
            return getattr(_operations, name)(array, width)
        return getattr(portable, name)(xp, array, width)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Array) -> None:
        _, ctx.name, ctx.width = inputs

    @staticmethod
    def backward(ctx: Any, cotangent: Array) -> tuple:
        return _apply(_SelfAdjoint, cotangent, ctx.name, ctx.width), None, None


class _Prefilter(torch.autograd.Function):
    """The spline prefilter and its adjoint, each the gradient of the other."""

    generate_vmap_rule = True

    @staticmethod
    def forward(array: Array, rule: Rule, adjoint: bool) -> Array:
        if _has_kernel(array):
            return _operations.prefilter(array, rule.boundary, adjoint)
        return (portable.from_coefficients if adjoint else portable.to_coefficients)(xp, array, rule)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Array) -> None:
        _, ctx.rule, ctx.adjoint = inputs

    @staticmethod
    def backward(ctx: Any, cotangent: Array) -> tuple:
        return _apply(_Prefilter, cotangent, ctx.rule, not ctx.adjoint), None, None


_TWINS = {function: _make_twin(function) for function in (_Sample, _PullBack, _Splat, _SelfAdjoint, _Prefilter)}
