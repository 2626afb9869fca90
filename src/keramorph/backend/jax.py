"""JAX: the portable primitives under `jax.jit`, with the gradient rules of sampling and smoothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from keramorph._typing import Array
from keramorph.backend import portable
from keramorph.backend.engine import Engine
from keramorph.backend.namespace import Namespace
from keramorph.backend.rule import Rule


class _Namespace(Namespace):
    def asarray(self, x: Any, *, dtype: str | None = None, like: Array | None = None) -> Array:
        return jnp.asarray(x, dtype=None if dtype is None else jax.dtypes.canonicalize_dtype(dtype))

    def cast(self, x: Array, dtype: str) -> Array:
        return x if x.dtype.name == dtype else x.astype(jax.dtypes.canonicalize_dtype(dtype))

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
        return _to_coefficients(image, rule) if rule.order == 3 else image

    def _from_coefficients(self, coefficients: Array, rule: Rule) -> Array:
        return _from_coefficients(coefficients, rule) if rule.order == 3 else coefficients

    def _sample(self, image: Array, coordinates: Array, rule: Rule) -> Array:
        return _sample(image, coordinates, rule)

    def _sample_with_derivative(self, image: Array, coordinates: Array, rule: Rule) -> tuple[Array, Array]:
        return _sample_with_derivative(image, coordinates, rule)

    def _splat(self, values: Array, coordinates: Array, shape: tuple, rule: Rule) -> Array:
        return _splat(values, coordinates, shape, rule)

    def _window_sum(self, array: Array, size: tuple[int, ...]) -> Array:
        return _window_sum(array, size)

    def _gaussian(self, array: Array, sigma: tuple[float, ...]) -> Array:
        return _gaussian(array, sigma)


engine = JaxEngine()
xp = engine.xp


# Compiled once per shape and rule; the gradient rules stand outside, so that differentiating compiles nothing anew.
_compiled_sample = jax.jit(partial(portable.sample, xp), static_argnums=2)
_compiled_splat = jax.jit(partial(portable.splat, xp), static_argnums=(2, 3))
_compiled_window_sum = jax.jit(partial(portable.window_sum, xp), static_argnums=1)
_compiled_gaussian = jax.jit(partial(portable.gaussian, xp), static_argnums=1)
_to_coefficients = jax.jit(partial(portable.to_coefficients, xp), static_argnums=1)
_from_coefficients = jax.jit(partial(portable.from_coefficients, xp), static_argnums=1)
_sample_with_derivative = jax.jit(partial(portable.sample_with_derivative, xp), static_argnums=2)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sample(image: Array, coordinates: Array, rule: Rule) -> Array:
    return _compiled_sample(image, coordinates, rule)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _splat(values: Array, coordinates: Array, shape: tuple, rule: Rule) -> Array:
    return _compiled_splat(values, coordinates, shape, rule)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _window_sum(array: Array, size: tuple[int, ...]) -> Array:
    return _compiled_window_sum(array, size)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gaussian(array: Array, sigma: tuple[float, ...]) -> Array:
    return _compiled_gaussian(array, sigma)


def _sample_backward(rule: Rule, saved: tuple, cotangent: Array) -> tuple:
    image, coordinates = saved
    to_image = None
    if jnp.issubdtype(image.dtype, jnp.inexact):
        to_image = _splat(cotangent, coordinates, image.shape[1:-1], rule.without_fill())
    return to_image, engine._pull_back(image, coordinates, cotangent, rule)


def _splat_backward(shape: tuple, rule: Rule, saved: tuple, cotangent: Array) -> tuple:
    values, coordinates = saved
    return _sample(cotangent, coordinates, rule), engine._pull_back(cotangent, coordinates, values, rule)


_sample.defvjp(lambda x, u, rule: (_sample(x, u, rule), (x, u)), _sample_backward)
_splat.defvjp(lambda x, u, shape, rule: (_splat(x, u, shape, rule), (x, u)), _splat_backward)
# Both filters are their own adjoints.
_window_sum.defvjp(lambda x, size: (_window_sum(x, size), None), lambda size, _, g: (_window_sum(g, size),))
_gaussian.defvjp(lambda x, sigma: (_gaussian(x, sigma), None), lambda sigma, _, g: (_gaussian(g, sigma),))
