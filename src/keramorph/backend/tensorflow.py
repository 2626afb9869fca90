"""TensorFlow: the primitives, as ops with kernels where those may stand, else portable with their gradient rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keramorph._typing import Array
from keramorph.backend import portable
from keramorph.backend import tensorflow_kernels as kernels
from keramorph.backend.comparison import Comparison
from keramorph.backend.engine import Engine
from keramorph.backend.namespace import Namespace
from keramorph.backend.rule import Rule


class _Namespace(Namespace):
    """NumPy's names over TensorFlow, with sizes that may be known at run time only."""

    def __init__(self) -> None:
        for name in (
            "broadcast_to",
            "stack",
            "where",
            "abs",
            "sqrt",
            "exp",
            "sin",
            "cos",
            "tanh",
            "maximum",
            "minimum",
        ):
            setattr(self, name, getattr(tf, name))
        for name in ("einsum", "transpose", "matmul", "floor", "round"):
            setattr(self, name, getattr(tf, name))
        self.concatenate, self.log, self.arctan2 = tf.concat, tf.math.log, tf.math.atan2
        self.inv, self.clip, self.pad = tf.linalg.inv, tf.clip_by_value, tf.pad
        self.sum, self.mean, self.cumsum = tf.reduce_sum, tf.reduce_mean, tf.cumsum
        self.max, self.min, self.argmin = tf.reduce_max, tf.reduce_min, tf.argmin

    def asarray(self, x: Any, *, dtype: str | None = None, like: Array | None = None) -> Array:
        x = tf.convert_to_tensor(x)
        return x if dtype is None else tf.cast(x, dtype)

    def dtype(self, x: Array) -> str:
        return str(x.dtype.name)

    def shape(self, x: Array) -> tuple:
        static = x.shape.as_list()
        if None not in static:
            return tuple(static)
        dynamic = tf.shape(x)
        return tuple(dynamic[k] if n is None else n for k, n in enumerate(static))

    def flip(self, x: Array, axes: Sequence[int]) -> Array:
        return tf.reverse(x, list(axes))

    def cast(self, x: Array, dtype: str) -> Array:
        return tf.cast(x, dtype)

    def scalar(self, value: Any, dtype: str) -> Any:
        return tf.cast(value, dtype)

    def reshape(self, x: Array, shape: Any) -> Array:
        return tf.reshape(x, shape)

    def take(self, x: Array, index: Array, axis: int) -> Array:
        return tf.gather(x, index, axis=axis)

    def arange(self, count: Any, *, dtype: str, like: Array | None = None) -> Array:
        # Counted in int32 first: XLA on the CPU has no range of other types whose length is open.
        return tf.cast(tf.range(count), dtype)

    def zeros(self, shape: Sequence[Any], *, dtype: str, like: Array | None = None) -> Array:
        return tf.zeros(shape, dtype=dtype)

    def round_to(self, x: Array, dtype: str) -> Array:
        if dtype == "bool":
            return x >= 0.5
        return tf.saturate_cast(tf.round(x), dtype)

    def index_dtype(self, rows: Any) -> str:
        return "int64" if isinstance(rows, int) and rows >= 2**31 else "int32"

    def gather_rows(self, rows: Array, index: Array) -> Array:
        return tf.gather(rows, index)

    def scatter_add_rows(self, rows: Array, index: Array, values: Array) -> Array:
        values = tf.reshape(values, (-1, self.shape(rows)[-1]))
        return tf.tensor_scatter_nd_add(rows, tf.reshape(index, (-1, 1)), values)

    def unstack(self, x: Array) -> tuple[Array, ...]:
        return tuple(tf.unstack(x, axis=-1))

    def stop_gradient(self, x: Array) -> Array:
        return tf.stop_gradient(x)

    def compile(self, function: Callable) -> Callable:
        return tf.function(function)


class TensorFlowEngine(Engine):
    """Primitives on TensorFlow tensors, symbolic ones too."""

    name = "tensorflow"
    xp = _Namespace()

    def _sample(self, image: Array, coordinates: Array, rule: Rule) -> Array:
        if kernels.fit(image, coordinates, rule):
            return portable.cast_like(self.xp, kernels.sample(image, coordinates, rule), image)
        return _sample_portably(image, coordinates, rule)

    def _sample_with_derivative(self, image: Array, coordinates: Array, rule: Rule) -> tuple[Array, Array]:
        if not kernels.fit_derivative(image, coordinates, rule):
            return portable.sample_with_derivative(self.xp, image, coordinates, rule)
        values, derivative = kernels.sample_with_derivative(image, coordinates, rule)
        return portable.cast_like(self.xp, values, image), derivative

    def _pull_back(self, image: Array, coordinates: Array, cotangent: Array, rule: Rule) -> Array:
        if kernels.fit_derivative(image, coordinates, rule):
            return kernels.pull_back(image, coordinates, cotangent, rule)
        return portable.pull_back(self.xp, image, coordinates, cotangent, rule)

    def _compose(self, outer: Array, inner: Array) -> Array:
        rule = Rule(relative=True)
        if kernels.fit(outer, inner, rule):
            return kernels.sample(outer, inner, rule, plus=True)
        return inner + _sample_portably(outer, inner, rule)

    def _splat(self, values: Array, coordinates: Array, shape: tuple, rule: Rule) -> Array:
        if kernels.fit_splat(values, coordinates, shape, rule):
            return portable.cast_like(self.xp, kernels.splat(values, coordinates, shape, rule), values)
        return _splat_portably(values, coordinates, shape, rule)

    def _to_coefficients(self, image: Array, rule: Rule) -> Array:
        if rule.order != 3:
            return image
        wide = image if image.dtype.name in ("float32", "float64") else tf.cast(image, "float32")
        if kernels.fit_filter(wide):
            return kernels.prefilter(wide, rule.boundary)
        return portable.to_coefficients(self.xp, image, rule)

    def _from_coefficients(self, coefficients: Array, rule: Rule) -> Array:
        if rule.order == 3 and kernels.fit_filter(coefficients):
            return kernels.prefilter_adjoint(coefficients, rule.boundary)
        return portable.from_coefficients(self.xp, coefficients, rule)

    def _window_sum(self, array: Array, size: tuple[int, ...]) -> Array:
        if kernels.fit_filter(array):
            return kernels.window_sum(array, size)
        return _self_adjoint(lambda x: portable.window_sum(self.xp, x, size), array)

    def _gaussian(self, array: Array, sigma: tuple[float, ...]) -> Array:
        if kernels.fit_filter(array):
            return kernels.gaussian(array, sigma)
        return _self_adjoint(lambda x: portable.gaussian(self.xp, x, sigma), array)

    def compare(
        self, fixed: Array, moved: Array, comparison: Comparison, *, portably: Callable[[Array, Array], Array]
    ) -> Array:
        """Values of `Engine.compare`, which come with a derivative where a tape may ask for one."""
        if not kernels.fit_pair(fixed, moved, comparison):
            return portably(fixed, moved)
        recorded = kernels.is_recorded(fixed), kernels.is_recorded(moved)
        if tf.executing_eagerly() and not any(recorded):
            return kernels.compare(fixed, moved, comparison)
        if recorded[0] and not recorded[1]:
            fixed, moved = moved, fixed  # every measure is symmetric
        return _compare(fixed, moved, comparison, portably, recorded)


engine = TensorFlowEngine()
xp = engine.xp


# What stands inside a portable primitive's gradient is portable too: TensorFlow may build the backward part of a
# function that XLA compiles where nothing tells so any more, and XLA cannot call a kernel.
def _sample_portably(image: Array, coordinates: Array, rule: Rule) -> Array:
    @tf.custom_gradient
    def call(image: Array, coordinates: Array) -> tuple[Array, Callable]:
        def backward(cotangent: Array) -> tuple:
            to_image = None
            if image.dtype.is_floating:
                to_image = _splat_portably(cotangent, coordinates, xp.shape(image)[1:-1], rule.without_fill())
            return to_image, portable.pull_back(xp, image, coordinates, cotangent, rule)

        return portable.sample(xp, image, coordinates, rule), backward

    return call(image, coordinates)


def _splat_portably(values: Array, coordinates: Array, shape: tuple, rule: Rule) -> Array:
    @tf.custom_gradient
    def call(values: Array, coordinates: Array) -> tuple[Array, Callable]:
        def backward(cotangent: Array) -> tuple:
            to_values = _sample_portably(cotangent, coordinates, rule)
            return to_values, portable.pull_back(xp, cotangent, coordinates, values, rule)

        return portable.splat(xp, values, coordinates, shape, rule), backward

    return call(values, coordinates)


def _self_adjoint(function: Callable, array: Array) -> Array:
    """Apply a linear function that is its own adjoint: the gradient is the function again, to any order."""

    @tf.custom_gradient
    def call(x: Array) -> tuple[Array, Callable]:
        return function(x), lambda cotangent: _self_adjoint(function, cotangent)

    return call(array)


def _compare(
    fixed: Array, moved: Array, comparison: Comparison, portably: Callable, recorded: tuple[bool, bool]
) -> Array:
    # A graph may be differentiated from outside, whatever the tapes inside it see.
    to_both = all(recorded) or not tf.executing_eagerly()

    def derive(fixed: Array, moved: Array) -> Array:
        return kernels.compare_with_derivative(fixed, moved, comparison)[1]

    @tf.custom_gradient
    def call(fixed: Array, moved: Array) -> tuple[Array, Callable]:
        if any(recorded):
            values, known = kernels.compare_with_derivative(fixed, moved, comparison)
        else:
            values, known = kernels.compare(fixed, moved, comparison), None

        def backward(cotangent: Array) -> tuple:
            cotangent = tf.reshape(cotangent, [-1, *[1] * (moved.shape.rank - 1)])
            to_moved = derive(fixed, moved) if known is None else known
            to_fixed = _differentiable(derive(moved, fixed), moved, fixed, portably) if to_both else None
            return (
                None if to_fixed is None else cotangent * to_fixed,
                cotangent * _differentiable(to_moved, fixed, moved, portably),
            )

        return values, backward

    return call(*_own(fixed, moved))


def _differentiable(derivative: Array, fixed: Array, moved: Array, portably: Callable) -> Array:
    """Return a derivative to the second image that a kernel has found, with that of the formula as its own gradient."""

    @tf.custom_gradient
    def call(fixed: Array, moved: Array) -> tuple[Array, Callable]:
        def backward(cotangent: Array) -> list:
            images = [fixed, moved]
            with tf.GradientTape() as outer:
                outer.watch(images)
                with tf.GradientTape() as inner:
                    inner.watch(moved)
                    values = portably(*images)
                found = inner.gradient(values, moved)
            return outer.gradient(found, images, output_gradients=cotangent)

        return tf.identity(derivative), backward

    return call(*_own(fixed, moved))


def _own(*tensors: Array) -> tuple[Array, ...]:
    """The tensors as ones of the graph that is being built: what a gradient refers to must not lie two graphs away."""
    return tuple(map(tf.identity, tensors))
