"""Gradients through the active Keras backend, in the arrays' own precision, and their check against differences."""

import contextlib
import functools
from collections.abc import Callable

import keras
import numpy as np


def value_and_gradient(function: Callable, *arrays: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Value of a function of backend tensors, and the gradients of its sum to each of the arrays, all as NumPy arrays.

    Args:
        function: Takes one tensor per array, of the array's own dtype (float64 too, on JAX as well), returns a tensor.
        *arrays: Where it is evaluated; floating point.
    """
    return {"tensorflow": _in_tensorflow, "jax": _in_jax, "torch": _in_torch}[keras.backend.backend()](function, arrays)


def evaluate(function: Callable, *arrays: np.ndarray) -> np.ndarray:
    """Value of a function of backend tensors of the arrays' own dtype, as a NumPy array."""
    with double_precision():
        tensors = [keras.ops.convert_to_tensor(array, dtype=str(array.dtype)) for array in arrays]
        return np.asarray(keras.ops.convert_to_numpy(_compiled(function)(*tensors)))


def assert_gradient_matches_differences(
    function: Callable, *arrays: np.ndarray, step: float = 1e-6, tolerance: float = 1e-6, seed: int = 0
) -> None:
    """Compare the gradient to each array with central differences along three random directions, in float64.

    The deviation allowed is `tolerance` relative to the greatest slope along the directions, and must not be met by a
    gradient that vanishes everywhere.
    """
    arrays = tuple(np.asarray(array, dtype=np.float64) for array in arrays)
    rng = np.random.default_rng(seed)
    _, gradients = value_and_gradient(function, *arrays)
    for index, gradient in enumerate(gradients):
        assert gradient.dtype == np.float64, "the check means something in float64 only"
        found, expected = [], []
        for _ in range(3):
            direction = rng.normal(size=arrays[index].shape)
            ends = [
                evaluate(function, *(a + sign * step * direction if i == index else a for i, a in enumerate(arrays)))
                for sign in (1, -1)
            ]
            expected.append((ends[0].sum() - ends[1].sum()) / (2 * step))
            found.append((gradient * direction).sum())
        scale = np.abs(expected).max()
        assert scale > 0, f"argument {index} has no influence: nothing is checked"
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale, err_msg=f"argument {index}")


def _in_tensorflow(function: Callable, arrays: tuple) -> tuple[np.ndarray, list[np.ndarray]]:
    import tensorflow as tf

    tensors = [tf.convert_to_tensor(array) for array in arrays]
    with tf.GradientTape() as tape:
        for tensor in tensors:
            tape.watch(tensor)
        value = function(*tensors)
    gradients = tape.gradient(value, tensors, unconnected_gradients="zero")
    return value.numpy(), [gradient.numpy() for gradient in gradients]


def _in_jax(function: Callable, arrays: tuple) -> tuple[np.ndarray, list[np.ndarray]]:
    import jax

    with double_precision():
        tensors = [jax.numpy.asarray(array) for array in arrays]
        value, gradients = _compiled_gradient(function)(*tensors)
        return np.asarray(value), [np.asarray(gradient) for gradient in gradients]


def _in_torch(function: Callable, arrays: tuple) -> tuple[np.ndarray, list[np.ndarray]]:
    import torch

    device = keras.ops.convert_to_tensor(0.0).device
    tensors = [torch.tensor(array, device=device, requires_grad=True) for array in arrays]
    value = function(*tensors)
    gradients = torch.autograd.grad(value.sum(), tensors, allow_unused=True)
    filled = [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, gradients, strict=True)]
    return value.detach().cpu().numpy(), [gradient.cpu().numpy() for gradient in filled]


@functools.lru_cache(maxsize=64)
def _compiled_gradient(function: Callable) -> Callable:
    import jax

    def differentiate(*tensors):
        value, pull_back = jax.vjp(function, *tensors)
        return value, pull_back(jax.numpy.ones_like(value))

    return jax.jit(differentiate)


@functools.lru_cache(maxsize=64)
def _compiled(function: Callable) -> Callable:
    """The function under `jax.jit` on JAX, which compiles every small step by itself otherwise."""
    if keras.backend.backend() != "jax":
        return function
    import jax

    return jax.jit(function)


def double_precision() -> contextlib.AbstractContextManager:
    """On JAX, a context in which float64 stays float64; elsewhere it does anyway."""
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    import jax

    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64

    return enable_x64()
