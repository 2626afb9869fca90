"""PyTorch: the gradient rules of sampling and smoothing, over the native kernels or the portable primitives.

A kernel, native on CPUs and Triton's on GPUs, stands behind a custom operation (`torch_operations.py`), which
`torch.compile` keeps as one node of its graph. Everything else, meta tensors and subclasses, computes the portable way,
which compilers can fuse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from keramorph._typing import Array
from keramorph.backend import native, portable
from keramorph.backend.blocks import map_blocks
from keramorph.backend.comparison import Comparison
from keramorph.backend.engine import Engine
from keramorph.backend.native import fields_of
from keramorph.backend.rule import Rule
from keramorph.backend.torch_namespace import xp


class TorchEngine(Engine):
    """Primitives on PyTorch tensors."""

    name = "torch"
    xp = xp

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

    def compare(
        self, fixed: Array, moved: Array, comparison: Comparison, *, portably: Callable[[Array, Array], Array]
    ) -> Array:
        """Values of `Engine.compare`, which come with a derivative only where one is asked for."""
        if not _can_compare(fixed, moved, comparison):
            return portably(fixed, moved)
        if not (_is_differentiated(fixed, moved) or _is_transformed()):
            return _operations.compare(fixed, moved, *comparison.numbers)
        if not moved.requires_grad:
            fixed, moved = moved, fixed  # every measure is symmetric
        if fixed is moved:
            fixed = fixed.view_as(fixed)
        known = _operations.compare_with_derivative(fixed.detach(), moved.detach(), *comparison.numbers)
        return _apply(_Compare, fixed, moved, *known, comparison, portably)

    def map_blocks(self, function: Callable, *arrays: Array, halo: int = 0) -> Any:
        """The function of the tensors, as `Engine.map_blocks` says: in blocks on CPUs, where nothing fuses it."""
        plain = all(t.device.type == "cpu" and type(t) in _PLAIN for t in arrays)
        if not plain or _is_differentiated(*arrays) or _is_watched():
            return function(*arrays)
        return map_blocks(torch.no_grad()(function), arrays, halo=halo, empty=_make_empty)

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

_FLOATS = (torch.float32, torch.float64)
_PLAIN = (torch.Tensor, torch.nn.Parameter)

# Devices whose kernels are registered, all under the same names.
_DEVICES = ("cpu",) * (native.extension() is not None) + ("cuda",) * native.has_triton()
_operations: Any = None
if _DEVICES:
    from keramorph.backend.torch_operations import operations as _operations


def _has_kernel(*tensors: Array) -> bool:
    return all(t.device.type in _DEVICES and type(t) in _PLAIN for t in tensors)


def _can_compare(fixed: Array, moved: Array, comparison: Comparison) -> bool:
    return (
        _has_kernel(fixed, moved)
        and moved.dtype in _FLOATS
        and fixed.dtype == moved.dtype
        and fixed.shape == moved.shape
        and comparison.has_kernel(moved.ndim - 2)
        and 0 < moved.numel() <= native.MAX_ELEMENTS
        and (moved.device.type == "cpu" or comparison.measure == "local_correlation")
    )


def _is_differentiated(*tensors: Array) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


# Absent from some future PyTorch, each call would take the general way.
_is_transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def _is_watched() -> bool:
    """Whether this thread traces, transforms or infers, which no other thread would know of."""
    return torch.compiler.is_compiling() or _is_transformed() or torch.is_inference_mode_enabled()


def _make_empty(shape: tuple[int, ...], kind: torch.dtype) -> Array:
    return torch.empty(shape, dtype=kind)


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


class _Compare(torch.autograd.Function):
    """Values of a comparison that are known already, and so is their derivative to the moved image."""

    generate_vmap_rule = True

    @staticmethod
    def forward(fixed: Array, moved: Array, values: Array, slope: Array, *_: Any) -> Array:
        return values.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Array) -> None:
        fixed, moved, _, slope, ctx.comparison, ctx.portably = inputs
        ctx.save_for_backward(fixed, moved, slope)

    @staticmethod
    def backward(ctx: Any, cotangent: Array) -> tuple:
        fixed, moved, slope = ctx.saved_tensors
        cotangent = cotangent.reshape(-1, *[1] * (moved.ndim - 1))
        to_fixed = to_moved = None
        if ctx.needs_input_grad[0]:
            _, other = _operations.compare_with_derivative(moved.detach(), fixed.detach(), *ctx.comparison.numbers)
            to_fixed = cotangent * _let_differentiate(other, moved, fixed, ctx.portably)
        if ctx.needs_input_grad[1]:
            to_moved = cotangent * _let_differentiate(slope, fixed, moved, ctx.portably)
        return to_fixed, to_moved, None, None, None, None


def _let_differentiate(slope: Array, fixed: Array, moved: Array, portably: Callable) -> Array:
    # torch.compile differentiates once only, and need not follow the formula.
    return slope if torch.compiler.is_compiling() else _apply(_Slope, fixed, moved, slope, portably)


class _Slope(torch.autograd.Function):
    """The derivative of a comparison to the second image, known already; its own derivative is the formula's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(fixed: Array, moved: Array, slope: Array, portably: Callable) -> Array:
        return slope.view_as(slope)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Array) -> None:
        fixed, moved, _, ctx.portably = inputs
        ctx.save_for_backward(fixed, moved)

    @staticmethod
    def backward(ctx: Any, cotangent: Array) -> tuple:
        def derive(fixed: Array, moved: Array) -> Array:
            values, pull = torch.func.vjp(lambda image: ctx.portably(fixed, image), moved)
            return pull(torch.ones_like(values))[0]

        images, to_images = ctx.saved_tensors, [None, None]
        if _is_transformed():
            _, pull = torch.func.vjp(derive, *images)
            return *pull(cotangent), None, None
        # Outside of `torch.func` autograd itself, which also follows rules that are written in its older form.
        wanted = [k for k in range(2) if ctx.needs_input_grad[k]]
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(ctx.portably(*images).sum(), images[1], create_graph=True)
        inputs, again = [images[k] for k in wanted], torch.is_grad_enabled()
        found = torch.autograd.grad(slope, inputs, cotangent, create_graph=again, allow_unused=True)
        for k, gradient in zip(wanted, found, strict=True):
            to_images[k] = gradient
        return *to_images, None, None


_TWINS = {
    function: _make_twin(function)
    for function in (_Sample, _PullBack, _Splat, _SelfAdjoint, _Prefilter, _Compare, _Slope)
}
