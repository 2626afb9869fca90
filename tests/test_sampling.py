"""Sampling against SciPy, naive loops and central differences, on the engine under test."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from differentiate import central_differences, double_precision, gradients, like, second_gradient
from keramorph import backend, ops
from keramorph.errors import OptionError, ShapeError

BOUNDARIES = ("constant", "nearest", "reflect", "mirror", "wrap")


def oracle(image, coordinates, order, boundary, fill_value=2.5):
    """SciPy on each batch entry and channel.

    SciPy's own spline prefilter for `reflect` is off by up to 5e-4 on lines of three voxels, and its edge padding for
    `nearest` by 2e-7: both are replaced by the definition, an explicitly extended image far longer than the filter.
    """
    margin = 40 if order == 3 and boundary in ("reflect", "nearest") else 0
    ndim = image.ndim - 2
    values = np.empty((*coordinates.shape[:-1], image.shape[-1]))
    for b, c in np.ndindex(image.shape[0], image.shape[-1]):
        one, points, mode = image[b, ..., c], np.moveaxis(coordinates[b], -1, 0), boundary
        if margin:
            if boundary == "nearest":
                ends = np.reshape(one.shape, (ndim,) + (1,) * (points.ndim - 1)) + 30.0
                points = np.clip(points, -30.0, ends)
            one = np.pad(one, margin, mode="edge" if boundary == "nearest" else "symmetric")
            points, mode = points + margin, "mirror"
        values[b, ..., c] = ndimage.map_coordinates(one, points, order=order, mode=mode, cval=fill_value)
    return values


def random_case(shape, seed=0, reach=1.6):
    """Image, and coordinates inside, on voxels, on the edges and far outside; float64."""
    rng = np.random.default_rng(seed)
    size = np.array(shape)
    points = rng.uniform(-reach * size, (1 + reach) * size, size=(2, 60, len(shape)))
    points[:, :20] = np.round(points[:, :20])
    points[:, 20:30] = rng.uniform(0, np.maximum(size - 1, 0), size=(2, 10, len(shape)))
    points[:, 30] = 0
    points[:, 31] = size - 1
    return rng.normal(size=(2, *shape, 3)), points


# Every combination in 1-D and 2-D; in 3-D, where compiling 64 taps takes seconds, each order and each boundary.
CASES = [
    *itertools.product(((7,), (5, 6), (4, 1)), (0, 1, 3), BOUNDARIES),
    *itertools.product(((5, 6, 7),), (0, 1), BOUNDARIES),
    ((5, 6, 7), 3, "nearest"),
]


@pytest.mark.parametrize(("shape", "order", "boundary"), CASES)
def test_sampling_matches_scipy(engine_name, make_array, shape, order, boundary):
    image, points = random_case(shape)
    if len(shape) == 2:
        expected = oracle(image, points, order, boundary)
        with double_precision(engine_name):
            found = ops.sample(make_array(image), make_array(points), order=order, boundary=boundary, fill_value=2.5)
            assert np.abs(np.asarray(found) - expected).max() < 1e-10
    # The very coordinates that float32 holds, so that a rounded one does not land on the other side of an edge.
    image, points = image.astype("float32"), points.astype("float32")
    expected = oracle(image.astype("float64"), points.astype("float64"), order, boundary)
    found = np.asarray(
        ops.sample(make_array(image), make_array(points), order=order, boundary=boundary, fill_value=2.5)
    )
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_half_way_ties_of_order_zero_are_scipys(make_array, boundary):
    image = np.arange(10.0, 15.0, dtype="float32")[None, :, None]
    points = np.arange(-14.5, 20.0, 1.0, dtype="float32")[None, :, None]
    found = np.asarray(ops.sample(make_array(image), make_array(points), order=0, boundary=boundary))
    expected = ndimage.map_coordinates(image[0, :, 0], points[0].T, order=0, mode=boundary)
    np.testing.assert_array_equal(found[0, :, 0], expected)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_displacements_are_coordinates_from_the_voxels_own_index(make_array, order, boundary):
    rng = np.random.default_rng(1)
    shape = (5, 6) if order == 3 else (5, 6, 7)
    image = rng.normal(size=(2, *shape, 2)).astype("float32")
    displacement = (rng.integers(-64, 64, size=(2, *shape, len(shape))) / 16).astype("float32")
    own = np.moveaxis(np.indices(shape), 0, -1)
    found = ops.warp(make_array(image), make_array(displacement), order=order, boundary=boundary, fill_value=2.5)
    expected = oracle(image.astype("float64"), displacement.astype("float64") + own, order, boundary)
    assert np.abs(np.asarray(found) - expected).max() < 2e-5


def naive_warp(image, displacement):
    """Linear interpolation with the edge extended, one voxel at a time."""
    batch, *spatial, channels = image.shape
    moved = np.zeros((batch, *spatial, channels))
    for index in np.ndindex(batch, *spatial):
        position = np.array(index[1:]) + displacement[index]
        low = np.floor(position).astype(int)
        for corner in itertools.product((0, 1), repeat=len(spatial)):
            weight = np.prod([f if c else 1 - f for c, f in zip(corner, position - low, strict=True)])
            voxel = tuple(np.clip(k + c, 0, n - 1) for k, c, n in zip(low, corner, spatial, strict=True))
            moved[index] += weight * image[(index[0], *voxel)]
    return moved


@settings(max_examples=15)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=3), st.integers(1, 2), st.integers(1, 3), st.integers(0, 2**32 - 1)
)
def test_warp_is_the_naive_loop(engine_name, shape, batch, channels, seed):
    from conftest import to_engine

    rng = np.random.default_rng(seed)
    image = rng.normal(size=(batch, *shape, channels)).astype("float32")
    displacement = rng.normal(scale=3, size=(batch, *shape, len(shape))).astype("float32")
    found = np.asarray(ops.warp(to_engine(engine_name, image), to_engine(engine_name, displacement)))
    assert np.abs(found - naive_warp(image, displacement.astype("float64"))).max() < 2e-5


@pytest.mark.parametrize(
    ("shape", "order", "boundary"),
    [*itertools.product(((4, 5),), (1, 3), BOUNDARIES), ((5,), 3, "nearest"), ((3, 4, 5), 1, "nearest")],
)
def test_gradients_match_central_differences(engine_name, shape, order, boundary):
    if engine_name == "numpy":
        pytest.skip("NumPy has no gradients")
    rng = np.random.default_rng(2)
    image = rng.normal(size=(1, *shape, 2))
    points = rng.uniform(-2.5, max(shape) + 1.5, size=(1, 12, len(shape)))
    points = np.floor(points) + 0.1 + 0.8 * (points % 1)  # the interpolant of order 1 has kinks at the voxels
    weight = rng.normal(size=(1, 12, 2))

    def total(image, points):
        return ops.sample(image, points, order=order, boundary=boundary, fill_value=1.0) * like(points, weight)

    to_image, to_points = gradients(engine_name, total, image, points)
    compared = [central_differences(lambda *a: total(*a).sum(), [image, points], k) for k in (0, 1)]
    assert np.abs(to_image - compared[0]).max() < 1e-6
    assert np.abs(to_points - compared[1]).max() < 1e-6


@pytest.mark.parametrize("order", [1, 3])
def test_gradients_of_warp_match_central_differences(engine_name, order):
    if engine_name == "numpy":
        pytest.skip("NumPy has no gradients")
    rng = np.random.default_rng(7)
    image = rng.normal(size=(2, 4, 5, 2))
    displacement = np.floor(rng.uniform(-3, 3, size=(2, 4, 5, 2))) + rng.uniform(0.1, 0.9, size=(2, 4, 5, 2))
    weight = rng.normal(size=image.shape)

    def total(image, displacement):
        return ops.warp(image, displacement, order=order) * like(image, weight)

    found = gradients(engine_name, total, image, displacement)
    for k in (0, 1):
        compared = central_differences(lambda *a: total(*a).sum(), [image, displacement], k)
        assert np.abs(found[k] - compared).max() < 1e-6


@pytest.mark.parametrize("order", [1, 3])
def test_gradients_of_splat_match_central_differences(engine_name, order):
    if engine_name == "numpy":
        pytest.skip("NumPy has no gradients")
    rng = np.random.default_rng(3)
    values, points = rng.normal(size=(2, 9, 2)), rng.uniform(-1, 6, size=(2, 9, 2))
    weight = rng.normal(size=(2, 4, 5, 2))

    def total(values, points):
        return ops.splat(values, points, shape=(4, 5), order=order) * like(values, weight)

    found = gradients(engine_name, total, values, points)
    for k in (0, 1):
        compared = central_differences(lambda *a: total(*a).sum(), [values, points], k)
        assert np.abs(found[k] - compared).max() < 1e-6


@pytest.mark.parametrize("order", [1, 3])
def test_second_gradients_match_central_differences(engine_name, order):
    if engine_name == "numpy":
        pytest.skip("NumPy has no gradients")
    rng = np.random.default_rng(4)
    image = rng.normal(size=(1, 4, 5, 1))
    displacement = np.floor(rng.uniform(-2, 2, size=(1, 4, 5, 2))) + rng.uniform(0.1, 0.9, size=(1, 4, 5, 2))
    weight = rng.normal(size=image.shape)

    def total(displacement, image):
        return ops.warp(image, displacement, order=order) * like(displacement, weight)

    def squared(image):
        (first,) = gradients(engine_name, lambda u: total(u, like(u, image)), displacement)
        return float((first**2).sum())

    found = second_gradient(engine_name, total, displacement, image)
    assert np.abs(found - central_differences(squared, [image], 0)).max() < 1e-6


@pytest.mark.parametrize(("order", "boundary"), [*itertools.product((1,), BOUNDARIES), (3, "nearest")])
def test_smooth_gradient_is_the_interpolated_central_difference_of_the_image(engine_name, order, boundary):
    if engine_name == "numpy":
        pytest.skip("NumPy has no gradients")
    rng = np.random.default_rng(5)
    image, displacement = rng.normal(size=(1, 5, 6, 1)), rng.uniform(-3, 3, size=(1, 5, 6, 2))

    def total(displacement):
        return ops.warp(like(displacement, image), displacement, order=order, boundary=boundary, gradient="smooth")

    (found,) = gradients(engine_name, total, displacement)
    for axis, step in enumerate(np.eye(2)):
        own = np.moveaxis(np.indices((5, 6)), 0, -1) + displacement
        ahead, behind = (oracle(image, own + sign * step, order, boundary, 0.0) for sign in (1, -1))
        assert np.abs(found[..., axis] - (ahead - behind)[..., 0] / 2).max() < 1e-9


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 3]), st.sampled_from(BOUNDARIES))
def test_splat_is_the_adjoint_of_sample(engine_name, seed, order, boundary):
    from conftest import to_engine

    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 6, size=rng.integers(1, 3 if order == 3 else 4)))
    image, points = rng.normal(size=(2, *shape, 3)), rng.uniform(-8, 12, size=(2, 10, len(shape)))
    values = rng.normal(size=(2, 10, 3))
    with double_precision(engine_name):
        arrays = [to_engine(engine_name, a) for a in (image, points, values)]
        sampled = np.asarray(ops.sample(arrays[0], arrays[1], order=order, boundary=boundary))
        spread = np.asarray(ops.splat(arrays[2], arrays[1], shape=shape, order=order, boundary=boundary))
    assert np.isclose((sampled * values).sum(), (image * spread).sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", [1, 3])
def test_sample_with_derivative_agrees_with_central_differences(engine_name, make_array, order):
    rng = np.random.default_rng(6)
    shape = (5, 6, 7)[: 3 if order == 1 else 2]
    image, points = rng.normal(size=(2, *shape, 2)), rng.uniform(-1, 6, size=(2, 30, len(shape)))
    with double_precision(engine_name):
        engine = backend.of(make_array(image))
        values, slopes = engine.sample_with_derivative(make_array(image), make_array(points), order=order)
    assert np.abs(np.asarray(values) - oracle(image, points, order, "nearest")).max() < 1e-10
    for axis, step in enumerate(1e-6 * np.eye(len(shape))):
        rise = oracle(image, points + step, order, "nearest") - oracle(image, points - step, order, "nearest")
        assert np.abs(np.asarray(slopes)[..., axis] - rise / 2e-6).max() < 1e-6


def test_bad_options_and_shapes_say_what_was_expected(make_array):
    image, displacement = make_array(np.zeros((1, 4, 5, 1))), make_array(np.zeros((1, 4, 5, 2)))
    with pytest.raises(OptionError, match="order=2"):
        ops.warp(image, displacement, order=2)
    with pytest.raises(OptionError, match="boundary='zeros'"):
        ops.warp(image, displacement, boundary="zeros")
    with pytest.raises(ShapeError, match="2 components"):
        ops.warp(image, make_array(np.zeros((1, 4, 5, 3))))
    with pytest.raises(ShapeError, match="own grid"):
        ops.warp(image, make_array(np.zeros((1, 5, 4, 2))))
    with pytest.raises(ShapeError, match="batch size"):
        ops.warp(image, make_array(np.zeros((2, 4, 5, 2))))
