"""The laws of deformation, drawn by Hypothesis, on the engine under test."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.linalg import expm, logm

from conftest import to_engine
from differentiate import double_precision
from keramorph import ops

# Each shape costs a compiling engine seconds; the seeds draw everything else.
cases = given(st.sampled_from([(6,), (5, 6, 7), (1, 6)]), st.integers(0, 2**32 - 1))
few = settings(max_examples=10)


def smooth_field(shape, seed, *, amplitude=1.0, sigma=2.0, flat=2):
    """A random smooth displacement, float64, that is constant near the edges so that no rule of extension matters."""
    field = np.random.default_rng(seed).normal(size=(1, *shape, len(shape)))
    field = ndimage.gaussian_filter(field, (0, *(sigma,) * len(shape), 0), mode="nearest")
    mask = np.zeros(shape)
    mask[tuple(slice(flat, n - flat) if n > 2 * flat else slice(None) for n in shape)] = 1
    field *= ndimage.gaussian_filter(mask, sigma / 2)[None, ..., None]
    return amplitude * field / max(np.abs(field).max(), 1e-12)


def on(engine_name, *arrays):
    return [to_engine(engine_name, array) for array in arrays]


@few
@given(st.sampled_from([(5, 6), (4, 1, 3)]), st.integers(0, 2**32 - 1))
def test_identity_changes_nothing(engine_name, shape, seed):
    image = np.random.default_rng(seed).normal(size=(2, *shape, 3)).astype("float32")
    for order in (0, 1):
        for boundary in ("constant", "nearest", "reflect", "mirror", "wrap"):
            still = np.zeros((2, *shape, len(shape)), dtype="float32")
            moved = ops.warp(*on(engine_name, image, still), order=order, boundary=boundary)
            np.testing.assert_array_equal(np.asarray(moved), image)


@few
@cases
def test_integer_displacements_shift_exactly(engine_name, shape, seed):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(1, *shape, 2)).astype("float32")
    shift = rng.integers(-3, 4, size=len(shape))
    displacement = np.broadcast_to(shift.astype("float32"), (1, *shape, len(shape))).copy()
    moved = np.asarray(ops.warp(*on(engine_name, image, displacement), boundary="constant", fill_value=-7.0))
    expected = ndimage.shift(image, (0, *-shift, 0), order=0, cval=-7.0)
    np.testing.assert_array_equal(moved, expected)


@few
@cases
def test_compose_is_one_warp_after_the_other_at_points(engine_name, shape, seed):
    rng = np.random.default_rng(seed)
    outer, inner = (rng.normal(size=(1, *shape, len(shape))) for _ in range(2))
    own = np.moveaxis(np.indices(shape), 0, -1).astype(float)
    middle = own + inner[0]
    at = np.moveaxis(middle, -1, 0)
    read = [ndimage.map_coordinates(outer[0, ..., d], at, order=1, mode="nearest") for d in range(len(shape))]
    expected = np.stack(read, axis=-1)
    with double_precision(engine_name):
        found = np.asarray(ops.compose(*on(engine_name, outer, inner)))
    assert np.abs(found[0] - (inner[0] + expected)).max() < 1e-12


def test_warping_twice_is_warping_by_the_composition(engine_name, make_array):
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 48)), indexing="ij")
    image = np.exp(-3 * (axes[0] ** 2 + 0.5 * axes[1] ** 2 + 0.4 * axes[0] * axes[1]))[None, ..., None]
    u, v = (smooth_field((40, 48), seed, amplitude=2.0, sigma=6.0, flat=8) for seed in (1, 2))
    with double_precision(engine_name):
        m, u, v = on(engine_name, image, u, v)
        twice = np.asarray(ops.warp(ops.warp(m, u, order=3), v, order=3))
        once = np.asarray(ops.warp(m, ops.compose(u, v), order=3))
        wrong = np.asarray(ops.warp(m, ops.compose(v, u), order=3))
    assert np.abs(twice - once).max() < 1e-3
    assert np.abs(twice - wrong).max() > 1e-2


def test_inverse_undoes_and_its_residual_is_true(engine_name, make_array):
    displacement = smooth_field((24, 30), 3, amplitude=3.0, sigma=4.0, flat=6)
    with double_precision(engine_name):
        (u,) = on(engine_name, displacement)
        inverse, residual = (np.asarray(x) for x in ops.invert(u, iterations=40))
    own = np.moveaxis(np.indices((24, 30)), 0, -1)
    at = np.moveaxis(own + inverse[0], -1, 0)
    back = np.stack(
        [ndimage.map_coordinates(displacement[0, ..., d], at, order=1, mode="nearest") for d in (0, 1)], axis=-1
    )
    left = np.linalg.norm(inverse[0] + back, axis=-1)
    assert np.abs(left - residual[0]).max() < 1e-12
    assert left.max() < 1e-6


def test_exponential_of_a_linear_velocity_is_the_matrix_exponential(engine_name, make_array):
    matrix = np.array([[0.05, -0.08], [0.06, 0.03]])
    own = np.moveaxis(np.indices((41, 41)), 0, -1) - 20.0
    with double_precision(engine_name):
        (velocity,) = on(engine_name, (own @ matrix.T)[None])
        found = np.asarray(ops.exponentiate(velocity, steps=10))
    expected = own @ (expm(matrix) - np.eye(2)).T
    inside = (slice(8, -8), slice(8, -8))
    assert np.abs(found[0][inside] - expected[inside]).max() < 2e-3


def test_exponentials_of_opposite_velocities_undo_each_other(engine_name, make_array):
    velocity = smooth_field((32, 36), 5, amplitude=3.0, sigma=5.0, flat=8)
    with double_precision(engine_name):
        forward, backward = (ops.exponentiate(v) for v in on(engine_name, velocity, -velocity))
        assert np.abs(np.asarray(forward)).max() > 2
        # What linear interpolation leaves of three voxels; adding instead of composing leaves over one.
        assert np.abs(np.asarray(ops.compose(forward, backward))).max() < 0.08
        assert np.abs(np.asarray(forward) + np.asarray(backward)).max() > 1


def test_constant_velocity_reaches_the_border_unharmed(make_array):
    # Trap 3: padding with zeros inside the squaring gives 0.95 voxel at the border instead of 3.
    velocity = np.full((1, 12, 12, 2), 3.0, dtype="float32")
    np.testing.assert_array_equal(np.asarray(ops.exponentiate(make_array(velocity))), velocity)


@few
@given(st.integers(2, 3), st.integers(0, 2**32 - 1))
def test_determinant_of_an_affine_map_is_that_of_its_matrix(engine_name, ndim, seed):
    matrix = np.eye(ndim) + np.random.default_rng(seed).uniform(-0.4, 0.4, size=(ndim, ndim))
    affine = np.concatenate([matrix, np.ones((ndim, 1))], axis=1)[None]
    shape = (4, 5, 6)[:ndim]
    with double_precision(engine_name):
        field = ops.affine_to_displacement(*on(engine_name, affine), shape=shape)
        own = np.moveaxis(np.indices(shape), 0, -1)
        assert np.abs(np.asarray(field)[0] - (own @ matrix.T + 1 - own)).max() < 1e-12
        assert np.abs(np.asarray(ops.jacobian_determinant(field)) - np.linalg.det(matrix)).max() < 1e-10
        assert np.abs(np.asarray(ops.jacobian(field)) - matrix).max() < 1e-10
        about_center = ops.affine_to_displacement(*on(engine_name, affine), shape=shape, centered=True)
        own = own - (np.array(shape) - 1) / 2
        assert np.abs(np.asarray(about_center)[0] - (own @ matrix.T + 1 - own)).max() < 1e-12


@few
@given(st.sampled_from([(5, 6), (5, 6, 7)]), st.integers(0, 2**32 - 1))
def test_flipping_and_permuting_axes_commutes_with_warping(engine_name, shape, seed):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(1, *shape, 2)).astype("float32")
    displacement = (rng.integers(-40, 40, size=(1, *shape, len(shape))) / 16).astype("float32")
    moved = np.asarray(ops.warp(*on(engine_name, image, displacement), boundary="reflect"))
    flipped = displacement[:, ::-1].copy()
    flipped[..., 0] *= -1
    found = ops.warp(*on(engine_name, image[:, ::-1].copy(), flipped), boundary="reflect")
    assert np.abs(np.asarray(found) - moved[:, ::-1]).max() < 1e-5
    order = [*range(len(shape))][::-1]
    axes = (0, *(1 + k for k in order), len(shape) + 1)
    turned = np.ascontiguousarray(np.transpose(displacement, axes)[..., order])
    found = ops.warp(*on(engine_name, np.ascontiguousarray(np.transpose(image, axes)), turned), boundary="reflect")
    assert np.abs(np.asarray(found) - np.transpose(moved, axes)).max() < 1e-5


@few
@given(st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
def test_weights_sum_to_one(engine_name, order, seed):
    points = np.random.default_rng(seed).uniform(-20, 20, size=(1, 50, 2))
    with double_precision(engine_name):
        for boundary in ("nearest", "reflect", "mirror", "wrap"):
            found = ops.sample(*on(engine_name, np.ones((1, 5, 6, 1)), points), order=order, boundary=boundary)
            assert np.abs(np.asarray(found) - 1).max() < 1e-12


@few
@given(st.integers(2, 3), st.integers(0, 2**32 - 1))
def test_affine_parameters_come_back_from_their_matrix(engine_name, ndim, seed):
    parameters = np.random.default_rng(seed).uniform(-0.7, 0.7, size=(2, ndim * (ndim + 1)))
    with double_precision(engine_name):
        matrix = ops.affine_from_parameters(*on(engine_name, parameters))
        found = np.asarray(ops.affine_to_parameters(matrix))
    assert np.abs(found - parameters).max() < 1e-10
    turns = ndim * (ndim - 1) // 2
    linear = np.asarray(matrix)[:, :, :ndim]
    expected = np.exp(parameters[:, ndim + turns : 2 * ndim + turns].sum(axis=1))
    assert np.abs(np.linalg.det(linear) - expected).max() < 1e-10


def test_rotation_parameters_turn_about_the_array_axes(engine_name, make_array):
    for axis, (i, j) in enumerate([(1, 2), (2, 0), (0, 1)]):
        parameters = np.zeros((1, 12))
        parameters[0, 3 + axis] = 0.3
        generator = logm(np.asarray(ops.affine_from_parameters(make_array(parameters)))[0, :, :3].astype(float))
        expected = np.zeros((3, 3))
        expected[j, i], expected[i, j] = 0.3, -0.3
        assert np.abs(generator - expected).max() < 1e-6


def test_a_reflection_has_no_parameters(make_array):
    mirror = np.array([[[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]], dtype="float32")
    assert np.isnan(np.asarray(ops.affine_to_parameters(make_array(mirror)))).any()
