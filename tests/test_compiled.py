"""Inside each framework's own machinery: jit, vmap, graphs, XLA, torch.compile, sizes that are open until run time."""

import numpy as np
import pytest

from keramorph import ops


def case(shape=(6, 7), batch=2):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(batch, *shape, 2)).astype("float32")
    return image, rng.uniform(-3, 3, size=(batch, *shape, len(shape))).astype("float32")


def chain(image, field):
    """Everything that a registration network does with its field."""
    return ops.warp(image, ops.compose(ops.exponentiate(field, steps=2), ops.gaussian(field, sigma=1.0)))


def test_jax_transformations(engine_name):
    if engine_name != "jax":
        pytest.skip("JAX's own")
    import jax

    image, field = case()
    expected = chain(image, field)
    np.testing.assert_allclose(jax.jit(chain)(image, field), expected, atol=1e-5)
    one = lambda i, u: chain(i[None], u[None])[0]  # noqa: E731
    np.testing.assert_allclose(jax.vmap(one)(image, field), expected, atol=1e-5)
    loss = lambda i, u: (chain(i, u) ** 2).sum()  # noqa: E731
    gradients = jax.grad(loss, argnums=(0, 1))(image, field)
    for plain, compiled in zip(gradients, jax.jit(jax.grad(loss, argnums=(0, 1)))(image, field), strict=True):
        np.testing.assert_allclose(plain, compiled, atol=1e-4)
    single = lambda i, u: (one(i, u) ** 2).sum()  # noqa: E731
    np.testing.assert_allclose(jax.vmap(jax.grad(single, argnums=1))(image, field), gradients[1], atol=1e-4)


@pytest.mark.parametrize("xla", [False, True])
def test_tensorflow_graphs_with_open_sizes(engine_name, xla):
    if engine_name != "tensorflow":
        pytest.skip("TensorFlow's own")
    import tensorflow as tf

    @tf.function(
        jit_compile=xla,
        input_signature=[tf.TensorSpec((None, None, None, 2)), tf.TensorSpec((None, None, None, 2))],
    )
    def graph(image, field):
        with tf.GradientTape() as tape:
            tape.watch([image, field])
            moved = chain(image, field)
            total = tf.reduce_sum(moved**2)
        return moved, tape.gradient(total, [image, field])

    for shape in ((6, 7), (9, 1)):
        image, field = case(shape)
        moved, gradients = graph(image, field)
        np.testing.assert_allclose(moved, chain(image, field), atol=1e-5)
        tensors = [tf.constant(image), tf.constant(field)]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            total = tf.reduce_sum(chain(*tensors) ** 2)
        for eager, compiled in zip(tape.gradient(total, tensors), gradients, strict=True):
            np.testing.assert_allclose(eager, compiled, atol=1e-4)


def test_tensorflow_resizes_and_differentiates_open_sizes(engine_name):
    if engine_name != "tensorflow":
        pytest.skip("TensorFlow's own")
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 2))])
    def graph(field):
        bigger = ops.resize_displacement(field, shape=(12, 11))
        return bigger, ops.jacobian_determinant(field), ops.splat(field, field, shape=(5, 6), boundary="reflect")

    _, field = case()
    for found, expected in zip(graph(field), graph.python_function(field), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_torch_compile_keeps_one_graph(engine_name):
    if engine_name != "torch":
        pytest.skip("PyTorch's own")
    import torch

    image, field = (torch.as_tensor(a) for a in case())
    field.requires_grad_(True)
    # "aot_eager" traces forward and backward as the default does, and leaves out only the C++ compiler.
    compiled = torch.compile(chain, fullgraph=True, backend="aot_eager")
    found = compiled(image, field)
    expected = chain(image, field)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    weight = torch.randn_like(expected)
    got, wanted = (torch.autograd.grad((x * weight).sum(), field)[0] for x in (found, expected))
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)


def test_torch_function_transforms(engine_name):
    if engine_name != "torch":
        pytest.skip("PyTorch's own")
    import torch

    image, field = (torch.as_tensor(a) for a in case())
    one = lambda i, u: (ops.warp(i[None], u[None]) ** 2).sum()  # noqa: E731
    per_pair = torch.func.vmap(torch.func.grad(one, argnums=1))(image, field)
    whole = torch.func.grad(lambda u: (ops.warp(image, u) ** 2).sum())(field)
    torch.testing.assert_close(per_pair, whole, atol=1e-5, rtol=0)
