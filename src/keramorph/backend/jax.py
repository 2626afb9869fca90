"""JAX: the primitives under `jax.jit`, by kernels where there are any, with the gradient rules of both forms."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from keramorph._typing import Array, Boundary
from keramorph.backend import jax_kernels as kernels
from keramorph.backend import portable
from keramorph.backend.comparison import Comparison
from keramorph.backend.engine import Engine
from keramorph.backend.namespace import Namespace
from keramorph.backend.rule import Rule

_name_of = lru_cache(maxsize=None)(lambda dtype: dtype.name)  # NumPy spells the name out anew at each question


class _Namespace(Namespace):
    def dtype(self, x: Array) -> str:
        return _name_of(x.dtype)

    def asarray(self, x: Any, *, dtype: str | None = None, like: Array | None = None) -> Array:
        return jnp.asarray(x, dtype=None if dtype is None else jax.dtypes.canonicalize_dtype(dtype))

    def cast(self, x: Array, dtype: str) -> Array:
        return x if _name_of(x.dtype) == dtype else x.astype(jax.dtypes.canonicalize_dtype(dtype))

    def index_dtype(self, rows: Any) -> str:
        # Sizes that are still open while a model is built compare with nothing.
        return "int64" if isinstance(rows, int) and rows >= 2**31 else "int32"

    def gather_rows(self, rows: Array, index: Array) -> Array:
        # The indices are folded into range already; checking them again would cost a pass.
        return rows.at[index].get(mode="promise_in_bounds")

    def scatter_add_rows(self, rows: Array, index: Array, values: Array) -> Array:
        return rows.at[index].add(values, mode="promise_in_bounds")

    def stop_gradient(self, x: Array) -> Array:
        return jax.lax.stop_gradient(x)

    def compile(self, function: Callable) -> Callable:
        return jax.jit(function)


class JaxEngine(Engine):
    """Primitives on JAX arrays, traced ones too."""

    name = "jax"
    xp = _Namespace(jnp)

    def _to_coefficients(self, image: Array, rule: Rule) -> Array:
        if rule.order != 3:
            return image
        wide = image if image.dtype.name in ("float32", "float64") else self.xp.cast(image, "float32")
        return _prefilter(wide, rule.boundary)

    def _from_coefficients(self, coefficients: Array, rule: Rule) -> Array:
        return _prefilter_adjoint(coefficients, rule.boundary) if rule.order == 3 else coefficients

    def _sample(self, image: Array, coordinates: Array, rule: Rule) -> Array:
        sample = _sample if _traced(image, coordinates) else _compute_sample
        return sample(image, coordinates, rule)

    def _sample_with_derivative(self, image: Array, coordinates: Array, rule: Rule) -> tuple[Array, Array]:
        sample = _sample_with_derivative if _traced(image, coordinates) else _compute_sample_with_derivative
        return sample(image, coordinates, rule)

    def _pull_back(self, image: Array, coordinates: Array, cotangent: Array, rule: Rule) -> Array:
        pull_back = _pull_back if _traced(image, coordinates, cotangent) else _compute_pull_back
        return pull_back(image, coordinates, cotangent, rule)

    def _compose(self, outer: Array, inner: Array) -> Array:
        return _compose(outer, inner) if _traced(outer, inner) else _compute_sample(outer, inner, _COMPOSITION, True)

    def _splat(self, values: Array, coordinates: Array, shape: tuple, rule: Rule) -> Array:
        splat = _splat if _traced(values, coordinates) else _compute_splat
        return splat(values, coordinates, shape, rule)

    def _window_sum(self, array: Array, size: tuple[int, ...]) -> Array:
        return (_window_sum if _traced(array) else _compute_window_sum)(array, size)

    def _gaussian(self, array: Array, sigma: tuple[float, ...]) -> Array:
        return (_gaussian if _traced(array) else _compute_gaussian)(array, sigma)

    def compare(
        self, fixed: Array, moved: Array, comparison: Comparison, *, portably: Callable[[Array, Array], Array]
    ) -> Array:
        """Values of `Engine.compare`, which come with a derivative only where one is asked for."""
        if not kernels.fit_pair(fixed, moved, comparison):
            return portably(fixed, moved)
        return (_compare if _traced(fixed, moved) else _compute_compare)(fixed, moved, comparison, portably)


def _traced(*arrays: Array) -> bool:
    """Whether gradient rules may be wanted: on plain values JAX takes half a millisecond to find that they are not."""
    return any(isinstance(array, jax.core.Tracer) for array in arrays)


engine = JaxEngine()
xp = engine.xp


# Compiled once per shape and rule; the gradient rules stand outside, so that differentiating compiles nothing anew.
@partial(jax.jit, static_argnums=(2, 3))
def _compute_sample(image: Array, coordinates: Array, rule: Rule, plus: bool = False) -> Array:
    if kernels.fit(image, coordinates, rule):
        values = kernels.sample(kernels.readable(image, coordinates, rule.order), coordinates, rule, plus)
        return portable.cast_like(xp, values, image)
    values = portable.sample(xp, image, coordinates, rule)
    return values + coordinates if plus else values


@partial(jax.jit, static_argnums=2)
def _compute_sample_with_derivative(image: Array, coordinates: Array, rule: Rule) -> tuple[Array, Array]:
    if not kernels.fit_derivative(image, coordinates, rule):
        return portable.sample_with_derivative(xp, image, coordinates, rule)
    lifted = kernels.readable(image, coordinates, rule.order)
    values, derivative = kernels.sample_with_derivative(lifted, coordinates, rule)
    return portable.cast_like(xp, values, image), derivative


@partial(jax.jit, static_argnums=3)
def _compute_pull_back(image: Array, coordinates: Array, cotangent: Array, rule: Rule) -> Array:
    if not kernels.fit_derivative(image, coordinates, rule):
        return portable.pull_back(xp, image, coordinates, cotangent, rule)
    lifted = kernels.readable(image, coordinates, rule.order)
    return kernels.pull_back(lifted, coordinates, cotangent.astype(lifted.dtype), rule)


@partial(jax.jit, static_argnums=(2, 3))
def _compute_splat(values: Array, coordinates: Array, shape: tuple, rule: Rule) -> Array:
    if not kernels.fit_splat(values, coordinates, shape, rule):
        return portable.splat(xp, values, coordinates, shape, rule)
    # A kernel that adds up reads no bare bytes, whatever the order.
    lifted = kernels.readable(values, coordinates, rule.order or 1)
    return portable.cast_like(xp, kernels.splat(lifted, coordinates, shape, rule), values)


_compute_compare = jax.jit(kernels.compare, static_argnums=(2, 3))
_compute_compare_with_derivative = jax.jit(kernels.compare_with_derivative, static_argnums=(2, 3))


def _compile_filter(kernel: Callable, replacement: Callable) -> Callable:
    """Compile a filter of one array: its kernel where there is one for this array, else its portable form."""

    def compute(array: Array, option: Any) -> Array:
        return kernel(array, option) if kernels.fit_filter(array) else replacement(xp, array, option)

    return jax.jit(compute, static_argnums=1)


_compute_window_sum = _compile_filter(kernels.window_sum, portable.window_sum)
_compute_gaussian = _compile_filter(kernels.gaussian, portable.gaussian)
_compute_prefilter = _compile_filter(kernels.prefilter, portable.prefilter)
_compute_prefilter_adjoint = _compile_filter(kernels.prefilter_adjoint, portable.prefilter_adjoint)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sample(image: Array, coordinates: Array, rule: Rule) -> Array:
    return _compute_sample(image, coordinates, rule)


@jax.custom_vjp
def _compose(outer: Array, inner: Array) -> Array:
    return _compute_sample(outer, inner, _COMPOSITION, True)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _splat(values: Array, coordinates: Array, shape: tuple, rule: Rule) -> Array:
    return _compute_splat(values, coordinates, shape, rule)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _sample_with_derivative(image: Array, coordinates: Array, rule: Rule) -> tuple[Array, Array]:
    return _compute_sample_with_derivative(image, coordinates, rule)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _pull_back(image: Array, coordinates: Array, cotangent: Array, rule: Rule) -> Array:
    return _compute_pull_back(image, coordinates, cotangent, rule)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _window_sum(array: Array, size: tuple[int, ...]) -> Array:
    return _compute_window_sum(array, size)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gaussian(array: Array, sigma: tuple[float, ...]) -> Array:
    return _compute_gaussian(array, sigma)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _prefilter(image: Array, boundary: Boundary) -> Array:
    return _compute_prefilter(image, boundary)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _prefilter_adjoint(coefficients: Array, boundary: Boundary) -> Array:
    return _compute_prefilter_adjoint(coefficients, boundary)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _compare(fixed: Array, moved: Array, comparison: Comparison, portably: Callable) -> Array:
    return _compute_compare(fixed, moved, comparison, portably)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _compare_with_derivative(
    fixed: Array, moved: Array, comparison: Comparison, portably: Callable
) -> tuple[Array, Array]:
    return _compute_compare_with_derivative(fixed, moved, comparison, portably)


_COMPOSITION = Rule(relative=True)


def _sample_backward(rule: Rule, saved: tuple, cotangent: Array) -> tuple:
    image, coordinates = saved
    to_image = None
    if jnp.issubdtype(image.dtype, jnp.inexact):
        to_image = _splat(cotangent, coordinates, image.shape[1:-1], rule.without_fill())
    return to_image, _pull_back(image, coordinates, cotangent, rule)


def _splat_backward(shape: tuple, rule: Rule, saved: tuple, cotangent: Array) -> tuple:
    values, coordinates = saved
    return _sample(cotangent, coordinates, rule), _pull_back(cotangent, coordinates, values, rule)


def _compose_backward(saved: tuple, cotangent: Array) -> tuple:
    to_outer, to_inner = _sample_backward(_COMPOSITION, saved, cotangent)
    return to_outer, cotangent + to_inner


# The derivative of a gradient is that of its portable form, so that it can be taken to any order.
@_sample_with_derivative.defjvp
def _sample_with_derivative_forward(rule: Rule, primals: tuple, tangents: tuple) -> tuple:
    _, change = jax.jvp(lambda x, u: portable.sample_with_derivative(xp, x, u, rule), primals, tangents)
    return _sample_with_derivative(*primals, rule), change


@_pull_back.defjvp
def _pull_back_forward(rule: Rule, primals: tuple, tangents: tuple) -> tuple:
    _, change = jax.jvp(lambda x, u, g: portable.pull_back(xp, x, u, g, rule), primals, tangents)
    return _pull_back(*primals, rule), change


@partial(_compare.defjvp, symbolic_zeros=True)
def _compare_forward(comparison: Comparison, portably: Callable, primals: tuple, tangents: tuple) -> tuple:
    # Every measure is symmetric: the derivative to the fixed image is that of the two swapped.
    found = [
        (*_compare_with_derivative(*images, comparison, portably), tangent)
        for images, tangent in ((primals, tangents[1]), (primals[::-1], tangents[0]))
        if not isinstance(tangent, jax.custom_derivatives.SymbolicZero)
    ]
    if not found:
        values = _compare(*primals, comparison, portably)
        return values, jnp.zeros_like(values)
    return found[0][0], sum(_contract(derivative, tangent) for _, derivative, tangent in found)


@jax.jit
def _contract(derivative: Array, tangent: Array) -> Array:
    """Change of each value: linear in the tangent, and compiled, for its transpose to pass over the image once."""
    return jnp.sum(derivative * tangent, axis=tuple(range(1, derivative.ndim)))


# Backwards: formulae hold rules of their own that JAX cannot differentiate forwards.
def _compare_with_derivative_backward(
    comparison: Comparison, portably: Callable, images: tuple, cotangents: tuple
) -> tuple:
    def formula(fixed: Array, moved: Array) -> tuple[Array, Array]:
        return kernels.compare_with_derivative_portably(xp, fixed, moved, comparison, portably)

    _, pull = jax.vjp(formula, *images)
    return pull(cotangents)


_compare_with_derivative.defvjp(
    lambda f, m, comparison, portably: (_compare_with_derivative(f, m, comparison, portably), (f, m)),
    _compare_with_derivative_backward,
)
_sample.defvjp(lambda x, u, rule: (_sample(x, u, rule), (x, u)), _sample_backward)
_compose.defvjp(lambda u, v: (_compose(u, v), (u, v)), _compose_backward)
_splat.defvjp(lambda x, u, shape, rule: (_splat(x, u, shape, rule), (x, u)), _splat_backward)
# Two filters are their own adjoints.
_window_sum.defvjp(lambda x, size: (_window_sum(x, size), None), lambda size, _, g: (_window_sum(g, size),))
_gaussian.defvjp(lambda x, sigma: (_gaussian(x, sigma), None), lambda sigma, _, g: (_gaussian(g, sigma),))
_prefilter.defvjp(lambda x, edge: (_prefilter(x, edge), None), lambda edge, _, g: (_prefilter_adjoint(g, edge),))
_prefilter_adjoint.defvjp(
    lambda x, edge: (_prefilter_adjoint(x, edge), None), lambda edge, _, g: (_prefilter(g, edge),)
)
