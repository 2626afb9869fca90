"""The kernels as primitives of JAX: an XLA FFI call in a program lowered for the CPU, the portable form in others.

A primitive is bound while a function is traced; what it becomes is settled when it is lowered. So one traced function
runs on CPU, GPU and TPU, and the portable form also stands in where a kernel cannot: sizes that are open (polymorphic
shapes), arrays beyond 2**30 elements, and programs that are exported, since those must run where Keramorph is not.

`vmap` folds the mapped axis into the batch. Sharded over their batch the calls are split by XLA without communication;
sharded over other axes their arrays are gathered first.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import batching, mlir

from keramorph._typing import Array, Boundary
from keramorph.backend import native, portable
from keramorph.backend.comparison import Comparison
from keramorph.backend.rule import Rule


def available() -> bool:
    """Whether the kernels are built, turned on, and known to this process' XLA."""
    global _registered
    if _registered is None:
        path = native.library("xla")
        _registered = path is not None and _register(path)
    return _registered


_registered: bool | None = None


def fit(image: Any, coordinates: Any, rule: Rule) -> bool:
    """Whether a kernel can sample such arrays (or splat onto such an image), as far as their types and axes tell."""
    known = _filled(image.shape) and _filled(coordinates.shape)
    types = (image.dtype.name, coordinates.dtype.name)
    shapes = (tuple(image.shape), tuple(coordinates.shape))
    return known and native.go_together(types, shapes, rule.relative) and available()


def fit_derivative(image: Any, coordinates: Any, rule: Rule) -> bool:
    """Whether a kernel can differentiate such a sample."""
    return rule.order != 0 and image.dtype.name in native.FLOATS and fit(image, coordinates, rule)


def fit_splat(values: Any, coordinates: Any, shape: tuple, rule: Rule) -> bool:
    """Whether a kernel can splat such values onto an image of this shape."""
    image = jax.ShapeDtypeStruct((values.shape[0], *shape, values.shape[-1]), values.dtype)
    in_step = values.shape[:-1] == coordinates.shape[:-1]
    return in_step and image.dtype.name in native.FLOATS and fit(image, coordinates, rule)


def fit_filter(array: Any) -> bool:
    """Whether a kernel can filter such an array."""
    float_type = array.dtype.name in ("float32", "float64")
    return 3 <= len(array.shape) <= 5 and float_type and _filled(array.shape) and available()


def fit_pair(fixed: Any, moved: Any, comparison: Comparison) -> bool:
    """Whether a kernel can compare such images."""
    alike = fixed.shape == moved.shape and fixed.dtype == moved.dtype
    return alike and comparison.has_kernel(len(moved.shape) - 2) and fit_filter(moved)


def readable(image: Array, coordinates: Array, order: int) -> Array:
    """Return the image in the data type in which a kernel reads it."""
    return image.astype(native.reading_type(image.dtype.name, coordinates.dtype.name, order))


def sample(image: Array, coordinates: Array, rule: Rule, plus: bool = False) -> Array:
    """Bind the sampling kernel; with `plus` the coordinates, of the image's data type, are added."""
    return _sample.bind(image, coordinates, rule=rule, plus=plus)[0]


def sample_with_derivative(image: Array, coordinates: Array, rule: Rule) -> tuple[Array, Array]:
    """Bind the kernel that gives values and derivatives in one pass."""
    values, derivative = _sample_with_derivative.bind(image, coordinates, rule=rule)
    return values, derivative


def pull_back(image: Array, coordinates: Array, cotangent: Array, rule: Rule) -> Array:
    """Bind the kernel of the gradient to the coordinates; the cotangent has the image's data type."""
    return _pull_back.bind(image, coordinates, cotangent, rule=rule)[0]


def splat(values: Array, coordinates: Array, shape: tuple, rule: Rule) -> Array:
    """Bind the adjoint of the sampling kernel."""
    return _splat.bind(values, coordinates, shape=shape, rule=rule)[0]


def prefilter(image: Array, boundary: Boundary) -> Array:
    """Bind the spline prefilter."""
    return _prefilter.bind(image, boundary=boundary)[0]


def prefilter_adjoint(coefficients: Array, boundary: Boundary) -> Array:
    """Bind the adjoint of the spline prefilter."""
    return _prefilter_adjoint.bind(coefficients, boundary=boundary)[0]


def window_sum(array: Array, size: tuple[int, ...]) -> Array:
    """Bind the box sums."""
    return _window_sum.bind(array, size=size)[0]


def gaussian(array: Array, sigma: tuple[float, ...]) -> Array:
    """Bind the Gaussian filter."""
    return _gaussian.bind(array, sigma=sigma)[0]


def compare(fixed: Array, moved: Array, comparison: Comparison, portably: Callable) -> Array:
    """Bind the comparison of two images of one shape."""
    return _compare.bind(fixed, moved, comparison=comparison, portably=portably)[0]


def compare_with_derivative(
    fixed: Array, moved: Array, comparison: Comparison, portably: Callable
) -> tuple[Array, Array]:
    """Bind the kernel that gives the values and their derivative to the moved image at once."""
    values, derivative = _compare_with_derivative.bind(fixed, moved, comparison=comparison, portably=portably)
    return values, derivative


def compare_with_derivative_portably(
    xp: Any, fixed: Array, moved: Array, comparison: Comparison, portably: Callable
) -> tuple[Array, Array]:
    """The same by the formula. Each value depends on its own images alone, so that one sweep gives all derivatives."""
    values, pull = jax.vjp(partial(portably, fixed), moved)
    return values, pull(jnp.ones_like(values))[0]


def _filled(shape: tuple) -> bool:
    """Whether all sizes are known, and none is zero."""
    return all(isinstance(n, int) and n > 0 for n in shape)


def _options(rule: Rule, image: Any) -> dict[str, Any]:
    with np.errstate(invalid="ignore", over="ignore"):
        whole = not jnp.issubdtype(image.dtype, jnp.inexact)
        fill = np.asarray(np.trunc(rule.fill_value) if whole else rule.fill_value).astype(image.dtype)
    return {
        "order": np.int64(rule.order),
        "boundary": _boundary(rule.boundary),
        "fill_bits": np.int64(int.from_bytes(fill.tobytes(), "little", signed=fill.itemsize == 8)),
        "fill": np.float64(rule.fill_value),
        "relative": rule.relative,
        "smooth": rule.gradient == "smooth",
    }


def _terms(comparison: Comparison) -> dict[str, Any]:
    measure, extent, dilation, variant = comparison.numbers
    numbers = {"measure": measure, "extent": extent, "dilation": dilation}
    return {"terms": {name: np.int64(number) for name, number in numbers.items()} | {"variant": variant}}


def _boundary(boundary: Boundary) -> np.int64:
    return np.int64(get_args(Boundary).index(boundary))


def _make_primitive(
    name: str, results: Callable[..., list], replacement: Callable[..., Any], attributes: Callable[..., dict]
) -> Any:
    """Primitive of several results: their shapes and types, its portable form, and what its handler is told."""
    from jax.extend.core import Primitive

    primitive = Primitive(f"keramorph_{name}")
    primitive.multiple_results = True

    def evaluate(*operands: Any, **parameters: Any) -> list:
        from keramorph.backend.jax import xp  # the engine imports this module

        found = replacement(xp, *operands, **parameters)
        return list(found) if isinstance(found, tuple) else [found]

    stand_in = mlir.lower_fun(evaluate, multiple_results=True)

    def infer(*operands: Any, **parameters: Any) -> list:
        return [_abstract(shape, dtype, operands) for shape, dtype in results(*operands, **parameters)]

    def lower_for_cpu(ctx: Any, *operands: Any, **parameters: Any) -> Any:
        if not _can_call(ctx):
            return stand_in(ctx, *operands, **parameters)
        call = jax.ffi.ffi_lowering(f"keramorph_{name}", extra_attributes=_split_over_batch(ctx))
        return call(ctx, *operands, **attributes(*ctx.avals_in, **parameters))

    primitive.def_impl(evaluate)
    primitive.def_abstract_eval(infer)
    batching.primitive_batchers[primitive] = partial(_fold_into_batch, primitive)
    mlir.register_lowering(primitive, stand_in)
    mlir.register_lowering(primitive, lower_for_cpu, platform="cpu")
    return primitive


def _abstract(shape: tuple, dtype: Any, operands: tuple) -> Any:
    # Inside `shard_map` a result varies over the mesh axes that any of its operands varies over.
    varying = frozenset().union(*(getattr(operand, "vma", frozenset()) for operand in operands))
    return jax.core.ShapedArray(shape, dtype, **({"vma": varying} if varying else {}))


def _can_call(ctx: Any) -> bool:
    if getattr(getattr(ctx.module_context, "lowering_parameters", None), "for_export", False):
        return False
    shapes = [aval.shape for aval in (*ctx.avals_in, *ctx.avals_out)]
    return all(_filled(shape) and native.is_countable(shape) for shape in shapes)


def _split_over_batch(ctx: Any) -> dict[str, Any]:
    """Attributes that let both of XLA's partitioners split a call over the first axis of each of its arrays."""
    attributes = {"mhlo.frontend_attributes": mlir.ir_attribute({"num_batch_dims": "1"})}
    factors: list[int] = [ctx.avals_in[0].shape[0]]

    def describe(aval: Any) -> str:
        names = [_factor(0)]
        for size in aval.shape[1:]:
            names.append(_factor(len(factors)))
            factors.append(size)
        return f"[{', '.join(names)}]"

    operands, results = (", ".join(map(describe, avals)) for avals in (ctx.avals_in, ctx.avals_out))
    sizes = ", ".join(f"{_factor(k)}={size}" for k, size in enumerate(factors))
    # A JAX that does not know Shardy's dialect cannot read the attribute, and has no use for it.
    with suppress(ValueError, mlir.ir.MLIRError):
        rule = f"#sdy.op_sharding_rule<({operands})->({results}) {{{sizes}}}>"
        attributes["sdy.sharding_rule"] = mlir.ir.Attribute.parse(rule)
    return attributes


def _factor(index: int) -> str:
    """Name of a factor of a sharding rule: i to z, then z_1, z_2, ..."""
    return chr(ord("i") + index) if index < 18 else f"z_{index - 17}"


def _fold_into_batch(primitive: Any, operands: tuple, axes: tuple, **parameters: Any) -> tuple[list, list]:
    count = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    folded = []
    for x, axis in zip(operands, axes, strict=True):
        x = jnp.broadcast_to(x, (count, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        batch = x.shape[1]
        folded.append(x.reshape(count * batch, *x.shape[2:]))
    results = primitive.bind(*folded, **parameters)
    return [x.reshape(count, batch, *x.shape[1:]) for x in results], [0] * len(results)


def _register(path: str | Path) -> bool:
    """Make the handlers known to XLA; False where this JAX is too old to take them."""
    if not hasattr(jax, "ffi"):
        return False
    library = ctypes.CDLL(str(path))
    for name in _NAMES:
        target = f"keramorph_{name}"
        handler = jax.ffi.pycapsule(getattr(library, f"keramorph_xla_{name}"))
        jax.ffi.register_ffi_target(target, handler, platform="cpu")
        if hasattr(jax.ffi, "register_ffi_target_as_batch_partitionable"):
            jax.ffi.register_ffi_target_as_batch_partitionable(target)
    return True


def _values(image: Any, coordinates: Any, **_: Any) -> list:
    return [((*coordinates.shape[:-1], image.shape[-1]), image.dtype)]


def _values_and_derivative(image: Any, coordinates: Any, **_: Any) -> list:
    ndim = coordinates.shape[-1]
    derivative = (*coordinates.shape[:-1], image.shape[-1], ndim)
    return [*_values(image, coordinates), (derivative, coordinates.dtype)]


def _lengthened(image: Any, boundary: Boundary, adjoint: bool = False) -> list:
    return [(native.shape_of_coefficients(image.shape, boundary, adjoint=adjoint), image.dtype)]


def _sample_portably(xp: Any, image: Array, coordinates: Array, rule: Rule, plus: bool) -> Array:
    values = portable.sample(xp, image, coordinates, rule)
    return values + coordinates if plus else values


_sample = _make_primitive(
    "sample",
    _values,
    _sample_portably,
    lambda image, coordinates, rule, plus: {"options": _options(rule, image), "plus": plus},
)
_sample_with_derivative = _make_primitive(
    "sample_with_derivative",
    _values_and_derivative,
    portable.sample_with_derivative,
    lambda image, coordinates, rule: {"options": _options(rule, image)},
)
_pull_back = _make_primitive(
    "pull_back",
    lambda image, coordinates, cotangent, rule: [(coordinates.shape, coordinates.dtype)],
    portable.pull_back,
    lambda image, coordinates, cotangent, rule: {"options": _options(rule, image)},
)
_splat = _make_primitive(
    "splat",
    lambda values, coordinates, shape, rule: [((values.shape[0], *shape, values.shape[-1]), values.dtype)],
    portable.splat,
    lambda values, coordinates, shape, rule: {"options": _options(rule, values)},
)
_prefilter = _make_primitive(
    "prefilter", _lengthened, portable.prefilter, lambda image, boundary: {"boundary": _boundary(boundary)}
)
_prefilter_adjoint = _make_primitive(
    "prefilter_adjoint",
    partial(_lengthened, adjoint=True),
    portable.prefilter_adjoint,
    lambda coefficients, boundary: {"boundary": _boundary(boundary)},
)
_window_sum = _make_primitive(
    "window_sum",
    lambda array, size: [(array.shape, array.dtype)],
    portable.window_sum,
    lambda array, size: {"size": np.asarray(size, dtype=np.int64)},
)
_gaussian = _make_primitive(
    "gaussian",
    lambda array, sigma: [(array.shape, array.dtype)],
    portable.gaussian,
    lambda array, sigma: {"sigma": np.asarray(sigma, dtype=np.float64)},
)
_compare = _make_primitive(
    "compare",
    lambda fixed, moved, **_: [(moved.shape[:1], moved.dtype)],
    lambda xp, fixed, moved, comparison, portably: portably(fixed, moved),
    lambda fixed, moved, comparison, portably: _terms(comparison),
)
_compare_with_derivative = _make_primitive(
    "compare_with_derivative",
    lambda fixed, moved, **_: [(moved.shape[:1], moved.dtype), (moved.shape, moved.dtype)],
    compare_with_derivative_portably,
    lambda fixed, moved, comparison, portably: _terms(comparison),
)
_NAMES = (
    "sample", "sample_with_derivative", "pull_back", "splat",
    "prefilter", "prefilter_adjoint", "window_sum", "gaussian", "compare", "compare_with_derivative",
)  # fmt: skip
