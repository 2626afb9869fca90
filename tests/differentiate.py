"""Gradients of a scalar function of arrays on the engine under test, in float64, and by central differences."""

import contextlib

import numpy as np

from keramorph import backend


def gradients(engine_name, function, *arrays):
    """Gradients of `function(*tensors)`, summed, to each of the float64 NumPy arrays; as NumPy arrays."""
    if engine_name == "jax":
        import jax

        with jax.enable_x64(True):
            tensors = [jax.numpy.asarray(a) for a in arrays]
            found = jax.grad(lambda *t: function(*t).sum(), argnums=tuple(range(len(arrays))))(*tensors)
            return [np.asarray(g) for g in found]
    if engine_name == "torch":
        import torch

        tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
        return [g.numpy() for g in torch.autograd.grad(function(*tensors).sum(), tensors)]
    import tensorflow as tf

    tensors = [tf.constant(a) for a in arrays]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        total = tf.reduce_sum(function(*tensors))
    return [np.asarray(g) for g in tape.gradient(total, tensors)]


def second_gradient(engine_name, function, first, second):
    """Gradient to `second` of the squared norm of the gradient to `first`; as a NumPy array."""
    if engine_name == "jax":
        import jax

        with jax.enable_x64(True):
            inner = jax.grad(lambda a, b: function(a, b).sum())
            outer = jax.grad(lambda b, a: (inner(a, b) ** 2).sum())
            return np.asarray(outer(jax.numpy.asarray(second), jax.numpy.asarray(first)))
    if engine_name == "torch":
        import torch

        a, b = (torch.tensor(x, requires_grad=True) for x in (first, second))
        (inner,) = torch.autograd.grad(function(a, b).sum(), a, create_graph=True)
        return torch.autograd.grad((inner**2).sum(), b)[0].numpy()
    import tensorflow as tf

    a, b = tf.constant(first), tf.constant(second)
    with tf.GradientTape() as outer:
        outer.watch(b)
        with tf.GradientTape() as tape:
            tape.watch(a)
            total = tf.reduce_sum(function(a, b))
        inner = tape.gradient(total, a)
        squared = tf.reduce_sum(inner**2)
    return np.asarray(outer.gradient(squared, b))


def central_differences(function, arrays, which, step=1e-5):
    """Gradient of `function(*arrays)`, a float, to the array at place `which`."""
    found = np.zeros_like(arrays[which])
    for index in np.ndindex(found.shape):
        values = []
        for sign in (1, -1):
            moved = [a.copy() for a in arrays]
            moved[which][index] += sign * step
            values.append(function(*moved))
        found[index] = (values[0] - values[1]) / (2 * step)
    return found


def double_precision(engine_name):
    """Context in which the engine keeps float64."""
    if engine_name == "jax":
        import jax

        return jax.enable_x64(True)
    return contextlib.nullcontext()


def like(tensor, values):
    """The values on the engine of `tensor`."""
    return backend.of(tensor).xp.asarray(values, like=tensor)
