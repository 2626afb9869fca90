"""JAX with the kernels: what becomes a call to one, and where the portable form must stand instead."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from keramorph import backend, ops
from keramorph.backend import native
from plain_measures import MEASURES

SHAPE = (5, 6, 7)


@pytest.fixture(autouse=True)
def _jax_with_kernels(engine_name):
    if engine_name != "jax" or native.library("xla") is None:
        pytest.skip("JAX's kernels")


def case(batch=2, channels=3, dtype="float32"):
    rng = np.random.default_rng(0)
    image = rng.uniform(-20, 20, size=(batch, *SHAPE, channels)).astype(dtype)
    return image, rng.uniform(-4, 4, size=(batch, *SHAPE, 3)).astype("float32")


def by_scipy(image, field, **options):
    index = np.moveaxis(np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1) + field, -1, 1)
    found = np.zeros((*field.shape[:-1], image.shape[-1]))
    for b, c in np.ndindex(image.shape[0], image.shape[-1]):
        found[b, ..., c] = map_coordinates(image[b, ..., c].astype("float64"), index[b], **options)
    return found


def test_a_warp_on_the_cpu_is_one_call():
    import jax

    text = jax.jit(ops.warp).lower(*case()).as_text()
    assert text.count("@keramorph_sample(") == 1
    assert "gather" not in text


def test_a_warp_for_a_gpu_is_portable():
    import jax

    text = jax.jit(ops.warp).trace(*case()).lower(lowering_platforms=("cuda",)).as_text()
    assert "keramorph_" not in text
    assert "gather" in text


def test_vmap_folds_into_the_batch_and_loops_over_nothing():
    import jax

    image, field = case(batch=6)
    pairs = [x.reshape(2, 3, *x.shape[1:]) for x in (image, field)]
    expected = by_scipy(image, field, order=1, mode="nearest").reshape(pairs[0].shape)
    mapped = jax.vmap(ops.warp)
    text = jax.jit(mapped).lower(*pairs).as_text()
    assert text.count("@keramorph_sample(") == 1
    assert "while" not in text
    np.testing.assert_allclose(mapped(*pairs), expected, atol=1e-4)
    one_image = jax.vmap(ops.warp, in_axes=(None, 1))(image[:3], np.moveaxis(pairs[1], 0, 1))
    again = np.concatenate([image[:3], image[:3]])
    np.testing.assert_allclose(
        one_image, by_scipy(again, field, order=1, mode="nearest").reshape(pairs[0].shape), atol=1e-4
    )


@pytest.mark.parametrize("sizes", ["2, 5, 6, 7", "b, 5, 6, 7"])
def test_an_exported_program_calls_no_kernel(sizes):
    import jax

    image, field = case()
    shape = jax.export.symbolic_shape(sizes) if "b" in sizes else tuple(map(int, sizes.split(", ")))
    arguments = [jax.ShapeDtypeStruct((*shape, 3), "float32")] * 2
    exported = jax.export.export(jax.jit(ops.warp))(*arguments)
    assert "custom_call @keramorph_" not in exported.mlir_module()
    found = jax.export.deserialize(exported.serialize()).call(image, field)
    np.testing.assert_allclose(found, by_scipy(image, field, order=1, mode="nearest"), atol=1e-4)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int32", "float16", "bfloat16", "float32"])
def test_every_data_type_is_copied_whole_with_its_own_fill_value(dtype):
    import jax.numpy as jnp

    image, field = case()
    stored = jnp.asarray(image > 0 if dtype == "bool" else np.abs(np.round(image))).astype(dtype)
    found = ops.warp(stored, field, order=0, boundary="constant", fill_value=1)
    assert found.dtype == stored.dtype
    expected = by_scipy(np.asarray(stored, dtype="float64"), field, order=0, mode="constant", cval=1)
    np.testing.assert_array_equal(np.asarray(found, dtype="float64"), expected)


def test_forward_over_reverse_and_reverse_over_reverse_agree_with_differences():
    import jax

    image, field = case()
    field = np.floor(field) + 0.25 + 0.5 * (field - np.floor(field))  # away from the kinks between voxels
    gradient = jax.jit(jax.grad(lambda u: (ops.warp(image, u) ** 2).sum()))
    direction = np.random.default_rng(1).normal(size=field.shape).astype("float32")
    step = 1e-2
    expected = (gradient(field + step * direction) - gradient(field - step * direction)) / (2 * step)
    found = jax.grad(lambda u: (gradient(u) * direction).sum())(field)
    scale = float(abs(expected).max())
    np.testing.assert_allclose(found, expected, atol=2e-3 * scale)


SHARDED = """
import re, jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from keramorph import ops
assert len(jax.devices()) == 2
rng = np.random.default_rng(0)
image, field = (rng.normal(size=(4, 5, 6, 7, 3)).astype("float32") for _ in range(2))
split = NamedSharding(Mesh(np.array(jax.devices()), "b"), PartitionSpec("b"))
f = jax.jit(jax.value_and_grad(lambda i, u: (ops.warp(i, u) ** 2).sum(), argnums=(0, 1)))
plain = f(image, field)
parts = [jax.device_put(x, split) for x in (image, field)]
text = f.lower(*parts).compile().as_text()
assert "all-gather" not in text, text
assert re.search(r"f32\\[2,5,6,7,3\\]\\S* custom-call", text), text
for a, b in zip(jax.tree.leaves(f(*parts)), jax.tree.leaves(plain)):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
in_map = jax.jit(jax.shard_map(ops.warp, mesh=split.mesh, in_specs=PartitionSpec("b"), out_specs=PartitionSpec("b")))
np.testing.assert_allclose(in_map(*parts), ops.warp(image, field), atol=1e-6)
"""


def test_an_array_sharded_over_its_batch_is_not_gathered():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", SHARDED], env=os.environ | flags, check=True)


BOTH = "keramorph_compare_with_derivative"
COMPARISON, FORMULA = MEASURES["ncc"]


def formula(fixed, moved):
    return FORMULA(backend.use("jax").xp, fixed, moved)


def compare(fixed, moved):
    return backend.use("jax").compare(fixed, moved, COMPARISON, portably=formula)


def total(fixed, moved):
    return (compare(fixed, moved) * np.array([1, -3], "float32")).sum()


def pair():
    rng = np.random.default_rng(0)
    fixed = rng.normal(size=(2, 9, 8, 3)).astype("float32")
    return fixed, (0.6 * fixed + rng.normal(size=fixed.shape)).astype("float32")


def count_calls(function, *arguments):
    import jax

    text = jax.jit(function).lower(*arguments).compile().as_text()
    return [len(re.findall(f'custom_call_target="{name}"', text)) for name in ("keramorph_compare", BOTH)]


def test_each_gradient_of_a_comparison_costs_one_call_and_none_costs_the_value_alone():
    import jax

    assert count_calls(compare, *pair()) == [1, 0]
    for which in (0, 1):
        assert count_calls(jax.value_and_grad(total, which), *pair()) == [0, 1]
    assert count_calls(jax.value_and_grad(total, (0, 1)), *pair()) == [0, 2]


def test_a_comparison_elsewhere_and_an_exported_one_are_the_formula():
    import jax

    function = jax.jit(jax.value_and_grad(total, (0, 1)))
    text = function.trace(*pair()).lower(lowering_platforms=("cuda",)).as_text()
    assert "keramorph_" not in text
    exported = jax.export.export(function)(*pair())
    assert "custom_call @keramorph_" not in exported.mlir_module()
    found = jax.export.deserialize(exported.serialize()).call(*pair())
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(function(*pair())), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)


def test_vmap_of_a_comparison_and_of_its_gradient_folds_into_the_batch():
    import jax

    fixed, moved = pair()
    one = lambda f, m: compare(f[None], m[None])[0]  # noqa: E731
    np.testing.assert_allclose(jax.vmap(one)(fixed, moved), formula(fixed, moved), rtol=1e-5)
    shared = jax.vmap(one, in_axes=(None, 0))(fixed[0], moved)
    np.testing.assert_allclose(shared, formula(np.repeat(fixed[:1], 2, 0), moved), rtol=1e-5)
    for which in (0, 1):
        mapped = jax.vmap(jax.grad(one, which))
        expected = jax.jit(jax.grad(lambda *images: formula(*images).sum(), which))(fixed, moved)
        np.testing.assert_allclose(mapped(fixed, moved), expected, rtol=1e-4, atol=1e-7)
        assert count_calls(mapped, fixed, moved) == [0, 1]


def test_a_comparison_is_differentiated_forwards():
    import jax

    images, changes = pair(), pair()[::-1]
    for one, other in zip(*(jax.jvp(f, images, changes) for f in (compare, formula)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_comparison_inside_a_loop_and_a_checkpoint_is_still_a_call():
    import jax

    fixed, moved = pair()

    @jax.checkpoint
    def step(image, _):
        return image - 0.1 * jax.grad(total, 1)(fixed, image), compare(fixed, image)

    def descend(image):
        return jax.lax.scan(step, image, None, length=3)[1].sum()

    assert np.isfinite(jax.jit(jax.grad(descend))(moved)).all()
    assert count_calls(lambda image: jax.lax.scan(step, image, None, length=3)[1], moved)[1] > 0
