"""The kernels as TensorFlow ops, and where they may stand: on the CPU, outside XLA, each with its gradient.

`docs/decisions/0007-tensorflow-ops-by-the-c-interface.md` says why they are ops of this kind.
"""

from __future__ import annotations

import ctypes
import struct
from functools import lru_cache
from typing import Any

import numpy as np
import tensorflow as tf

from keramorph._typing import Array, Boundary
from keramorph.backend import native, portable
from keramorph.backend.comparison import Comparison
from keramorph.backend.rule import Rule


def ops() -> Any:
    """Module of the ops; None where kernels are off or suspended, not built, or not possible with this TensorFlow."""
    return None if native.is_suspended() else _load()


@lru_cache(maxsize=1)
def _load() -> Any:
    path = native.library("tensorflow")
    if path is None:
        return None
    module = tf.load_op_library(str(path))
    problem = ctypes.CDLL(str(path)).keramorph_tensorflow_problem
    problem.restype = ctypes.c_char_p
    return module if not problem() else None


def fit(image: Any, coordinates: Any, rule: Rule) -> bool:
    """Whether the op can sample such tensors, here; sizes that are open are checked when it runs."""
    if ops() is None or None in (image.shape.rank, coordinates.shape.rank):
        return False
    types = (image.dtype.name, coordinates.dtype.name)
    shapes = (tuple(image.shape.as_list()), tuple(coordinates.shape.as_list()))
    return native.go_together(types, shapes, rule.relative) and _may_stand_here(image, coordinates)


def fit_derivative(image: Any, coordinates: Any, rule: Rule) -> bool:
    """Whether the op can differentiate such a sample."""
    return rule.order != 0 and image.dtype.name in native.FLOATS and fit(image, coordinates, rule)


def fit_splat(values: Any, coordinates: Any, shape: tuple, rule: Rule) -> bool:
    """Whether the op can splat such values onto an image of this shape."""
    if values.dtype.name not in native.FLOATS or not values.shape[:-1].is_compatible_with(coordinates.shape[:-1]):
        return False
    sizes = [n if isinstance(n, int) else None for n in shape]
    image = tf.TensorSpec((values.shape[0], *sizes, values.shape[-1]), values.dtype)
    return fit(image, coordinates, rule) and _may_stand_here(values)


def fit_filter(array: Any) -> bool:
    """Whether the ops can filter such a tensor, here."""
    return (
        ops() is not None
        and array.dtype.name in ("float32", "float64")
        and array.shape.rank in (3, 4, 5)
        and native.is_countable(array.shape.as_list())
        and _may_stand_here(array)
    )


def fit_pair(fixed: Any, moved: Any, comparison: Comparison) -> bool:
    """Whether the ops can compare such images, here."""
    return (
        fixed.dtype == moved.dtype
        and fixed.shape.is_compatible_with(moved.shape)
        and fit_filter(fixed)
        and fit_filter(moved)
        and comparison.has_kernel(moved.shape.rank - 2)
    )


def sample(image: Array, coordinates: Array, rule: Rule, plus: bool = False) -> Array:
    """Values of the image; with `plus` the coordinates, of its data type, are added."""
    lifted = _readable(image, coordinates, rule.order)
    return ops().keramorph_sample(lifted, coordinates, **_options(rule, lifted.dtype), plus=int(plus))


def sample_with_derivative(image: Array, coordinates: Array, rule: Rule) -> tuple[Array, Array]:
    """Values and their derivative to the coordinates in one pass."""
    lifted = _readable(image, coordinates, rule.order)
    values, derivative = ops().keramorph_sample_with_derivative(lifted, coordinates, **_options(rule, lifted.dtype))
    return values, derivative


def pull_back(image: Array, coordinates: Array, cotangent: Array, rule: Rule) -> Array:
    """Gradient to the coordinates."""
    lifted = _readable(image, coordinates, rule.order)
    cotangent = _readable(cotangent, coordinates, rule.order)
    return ops().keramorph_pull_back(lifted, coordinates, cotangent, **_options(rule, lifted.dtype))


def splat(values: Array, coordinates: Array, shape: tuple, rule: Rule) -> Array:
    """Adjoint of `sample` to the image."""
    # A kernel that adds up reads no bare bytes, whatever the order.
    lifted = _readable(values, coordinates, rule.order or 1)
    sizes = tf.stack([tf.cast(n, "int64") for n in shape])
    image = ops().keramorph_splat(lifted, coordinates, sizes, **_options(rule, lifted.dtype))
    return _with_shape(image, (values.shape[0], *shape, values.shape[-1]))


def prefilter(image: Array, boundary: Boundary) -> Array:
    """B-spline coefficients."""
    return _prefilter(ops().keramorph_prefilter, image, boundary, adjoint=False)


def prefilter_adjoint(coefficients: Array, boundary: Boundary) -> Array:
    """Adjoint of the spline prefilter."""
    return _prefilter(ops().keramorph_prefilter_adjoint, coefficients, boundary, adjoint=True)


def window_sum(array: Array, size: tuple[int, ...]) -> Array:
    """Sums over boxes."""
    return ops().keramorph_window_sum(array, width=size)


def gaussian(array: Array, sigma: tuple[float, ...]) -> Array:
    """Gaussian smoothing."""
    return ops().keramorph_gaussian(array, width=[_bits_of(s) for s in sigma])


def compare(fixed: Array, moved: Array, comparison: Comparison) -> Array:
    """Values of a comparison."""
    return ops().keramorph_compare(fixed, moved, terms=comparison.numbers)


def compare_with_derivative(fixed: Array, moved: Array, comparison: Comparison) -> tuple[Array, Array]:
    """Values of a comparison and their derivative to the moved image at once. The op itself passes no gradient."""
    values, derivative = ops().keramorph_compare_with_derivative(fixed, moved, terms=comparison.numbers)
    return values, derivative


def is_recorded(tensor: Array) -> bool:
    """Whether a tape watches the tensor, here."""
    try:
        from tensorflow.python.eager import record
    except ImportError:  # it is no public name, and may move
        return True
    return bool(record.should_record_backprop([tensor]))


def _readable(image: Array, coordinates: Array, order: int) -> Array:
    dtype = native.reading_type(image.dtype.name, coordinates.dtype.name, order)
    return image if image.dtype == dtype else tf.cast(image, dtype)


def _prefilter(function: Any, array: Array, boundary: Boundary, *, adjoint: bool) -> Array:
    filtered = function(array, boundary=native.BOUNDARIES.index(boundary))
    return _with_shape(filtered, native.shape_of_coefficients(array.shape.as_list(), boundary, adjoint=adjoint))


def _with_shape(x: Array, shape: tuple) -> Array:
    """Tell a graph what its own inference does not know."""
    if not tf.executing_eagerly():
        x.set_shape([n if isinstance(n, int) else None for n in shape])
    return x


def _may_stand_here(*tensors: Any) -> bool:
    """Whether an op whose kernel is for the CPU alone may stand here: no GPU has the tensors, XLA compiles nothing."""
    if tf.executing_eagerly():
        return not _has_accelerator() or all("CPU" in getattr(x, "device", "CPU") for x in tensors)
    return not _has_accelerator() and not _inside_xla() and not _being_saved()


@lru_cache(maxsize=1)
def _has_accelerator() -> bool:
    # What is visible cannot change any more once TensorFlow runs.
    return any(device.device_type != "CPU" for device in tf.config.get_visible_devices())


def _inside_xla() -> bool:
    """Whether the graph that is being built, or one around it, is to be compiled by XLA, which cannot call the ops."""
    graph: Any = tf.compat.v1.get_default_graph()
    while graph is not None:
        context = getattr(graph, "_get_control_flow_context", lambda: None)()
        while context is not None:
            if context.IsXLAContext():
                return True
            context = context.outer_context
        graph = getattr(graph, "outer_graph", None)
    return False


def _being_saved() -> bool:
    """Whether the graph goes into a SavedModel, which must run where Keramorph is not."""
    try:
        from tensorflow.python.saved_model import save_context
    except ImportError:  # it is no public name, and may move
        return False
    return bool(save_context.in_save_context())


@lru_cache(maxsize=256)
def _options(rule: Rule, dtype: Any) -> dict[str, int]:
    with np.errstate(invalid="ignore", over="ignore"):
        fill = np.asarray(rule.fill_value).astype(dtype.as_numpy_dtype)
    return {
        "order": rule.order,
        "boundary": native.BOUNDARIES.index(rule.boundary),
        "fill": _bits_of(rule.fill_value),
        "fill_bits": int.from_bytes(fill.tobytes(), "little", signed=fill.itemsize == 8),
        "relative": int(rule.relative),
        "smooth": int(rule.gradient == "smooth"),
    }


def _bits_of(value: float) -> int:
    """A float as TensorFlow's attributes can hold it without loss: they know 64 bits of whole numbers only."""
    return struct.unpack("<q", struct.pack("<d", value))[0]


def _rule_of(op: Any) -> Rule:
    fill = struct.unpack("<d", struct.pack("<q", op.get_attr("fill")))[0]
    boundary: Any = native.BOUNDARIES[op.get_attr("boundary")]
    gradient: Any = "smooth" if op.get_attr("smooth") else "exact"
    return Rule(op.get_attr("order"), boundary, fill, bool(op.get_attr("relative")), gradient)


def _wants(op: Any, index: int) -> bool:
    """Whether the gradient to an input is used: an eager tape says so, a graph prunes what is not."""
    skipped = getattr(op, "skip_input_indices", None) or ()
    return index not in skipped and op.inputs[index].dtype.is_floating


@tf.RegisterGradient("KeramorphSample")
def _differentiate_sample(op: Any, cotangent: Array) -> list:
    image, coordinates = op.inputs
    rule = _rule_of(op)
    to_image = to_coordinates = None
    if _wants(op, 0):
        to_image = splat(cotangent, coordinates, _sizes(image), rule.without_fill())
    if _wants(op, 1) and image.dtype.is_floating:
        to_coordinates = _pull_back_of_any_order(image, coordinates, cotangent, rule)
        to_coordinates = to_coordinates + cotangent if op.get_attr("plus") else to_coordinates
    return [to_image, to_coordinates]


@tf.RegisterGradient("KeramorphSplat")
def _differentiate_splat(op: Any, cotangent: Array) -> list:
    values, coordinates, _ = op.inputs
    rule = _rule_of(op)
    to_values = sample(cotangent, coordinates, rule) if _wants(op, 0) else None
    to_coordinates = _pull_back_of_any_order(cotangent, coordinates, values, rule) if _wants(op, 1) else None
    return [to_values, to_coordinates, None]


@tf.RegisterGradient("KeramorphPullBack")
def _differentiate_pull_back(op: Any, cotangent: Array) -> list:
    # The derivative of a gradient is that of its portable form.
    return _differentiate_portably(
        lambda xp, image, coordinates, given: portable.pull_back(xp, image, coordinates, given, _rule_of(op)),
        op,
        cotangent,
    )


@tf.RegisterGradient("KeramorphSampleWithDerivative")
def _differentiate_both(op: Any, *cotangents: Array) -> list:
    return _differentiate_portably(
        lambda xp, image, coordinates: portable.sample_with_derivative(xp, image, coordinates, _rule_of(op)),
        op,
        cotangents,
    )


@tf.RegisterGradient("KeramorphWindowSum")
def _differentiate_window_sum(op: Any, cotangent: Array) -> Array:
    return window_sum(cotangent, op.get_attr("width"))


@tf.RegisterGradient("KeramorphGaussian")
def _differentiate_gaussian(op: Any, cotangent: Array) -> Array:
    return ops().keramorph_gaussian(cotangent, width=op.get_attr("width"))


@tf.RegisterGradient("KeramorphPrefilter")
def _differentiate_prefilter(op: Any, cotangent: Array) -> Array:
    return prefilter_adjoint(cotangent, native.BOUNDARIES[op.get_attr("boundary")])


@tf.RegisterGradient("KeramorphPrefilterAdjoint")
def _differentiate_prefilter_adjoint(op: Any, cotangent: Array) -> Array:
    return prefilter(cotangent, native.BOUNDARIES[op.get_attr("boundary")])


def _pull_back_of_any_order(image: Array, coordinates: Array, cotangent: Array, rule: Rule) -> Array:
    if rule.order:
        return pull_back(image, coordinates, cotangent, rule)
    from keramorph.backend.tensorflow import xp  # the engine imports this module

    return portable.pull_back(xp, image, coordinates, cotangent, rule)


def _differentiate_portably(function: Any, op: Any, cotangents: Any) -> list:
    from keramorph.backend.tensorflow import xp

    inputs = list(op.inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        found = function(xp, *inputs)
    return tape.gradient(found, inputs, output_gradients=cotangents)


def _sizes(image: Array) -> tuple:
    static = image.shape.as_list()[1:-1]
    if None not in static:
        return tuple(static)
    dynamic = tf.shape(image, "int64")
    return tuple(dynamic[k + 1] if n is None else n for k, n in enumerate(static))
