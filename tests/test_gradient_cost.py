"""What the gradient to a displacement may cost: one more gather, with nothing kept but what came in."""

import re

import numpy as np
import pytest

from conftest import to_engine
from keramorph import ops

GATHER = re.compile("gather|index_select|pull_?back", re.IGNORECASE)
SCATTER = re.compile("scatter|index_add|index_put|splat", re.IGNORECASE)
SHAPE = (1, 6, 7)


@pytest.fixture
def pair(engine_name):
    if engine_name == "numpy":
        pytest.skip("NumPy differentiates nothing")
    rng = np.random.default_rng(0)
    image, displacement = rng.random((*SHAPE, 2)), rng.normal(size=(*SHAPE, 2))
    return [to_engine(engine_name, array.astype("float32")) for array in (image, displacement)]


def list_steps(engine_name, function, variable) -> str:
    """Names of all that is computed for the gradient of the squares of `function(variable)`, with nothing to prune."""
    if engine_name == "jax":
        import jax

        program = jax.jit(jax.grad(lambda x: (function(x) ** 2).sum())).lower(variable).compile().as_text()
        kernels = re.findall(r"custom_call_target=\"(\w+)\"", program)
        return " ".join(re.findall(r"\s([\w-]+)\(", program) + kernels)
    if engine_name == "torch":
        import torch

        variable = variable.clone().requires_grad_()
        with torch.profiler.profile() as profile:
            torch.autograd.grad((function(variable) ** 2).sum(), variable)
        return " ".join(event.key for event in profile.key_averages())
    import tensorflow as tf

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(function(x) ** 2)
        return tape.gradient(total, x)

    return " ".join(list_needed(gradient.get_concrete_function(variable)))


def list_needed(graph) -> set[str]:
    """Types of the operations that the outputs of a TensorFlow function depend on."""
    needed, waiting = {}, [tensor.op for tensor in graph.outputs]
    while waiting:
        operation = waiting.pop()
        if operation.name not in needed:
            needed[operation.name] = operation.type
            waiting += [tensor.op for tensor in operation.inputs]
    return set(needed.values())


@pytest.mark.parametrize("order", [1, 3])
def test_the_gradient_to_a_displacement_scatters_nothing(engine_name, pair, order):
    image, displacement = pair
    steps = list_steps(engine_name, lambda field: ops.warp(image, field, order=order), displacement)
    assert GATHER.search(steps)
    assert not SCATTER.search(steps)


def test_a_scatter_would_be_seen(engine_name, pair):
    image, displacement = pair
    assert SCATTER.search(list_steps(engine_name, lambda values: ops.warp(values, displacement), image))


def test_a_warp_keeps_the_image_and_the_displacement_and_no_corners(engine_name, pair):
    if engine_name != "torch":
        pytest.skip("only PyTorch tells what it keeps")
    import torch

    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    image, displacement = (tensor.clone().requires_grad_() for tensor in pair)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ops.warp(image, displacement)
    assert sum(kept.values()) == image.untyped_storage().nbytes() + displacement.untyped_storage().nbytes()
