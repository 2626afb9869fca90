"""Window sums and Gaussian smoothing against SciPy, on the engine under test."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from differentiate import double_precision, gradients, like
from keramorph import backend, ops
from keramorph.errors import OptionError


@settings(max_examples=12)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(0, 10), st.integers(0, 2**32 - 1))
def test_window_sum_matches_scipy(engine_name, shape, half, seed):
    from conftest import to_engine

    size = 2 * half + 1
    array = np.random.default_rng(seed).normal(size=(2, *shape, 2))
    expected = array
    for axis in range(1, len(shape) + 1):
        expected = ndimage.convolve1d(expected, np.ones(size), axis=axis, mode="constant")
    with double_precision(engine_name):
        tensor = to_engine(engine_name, array)
        found = np.asarray(backend.of(tensor).window_sum(tensor, size=size))
    assert np.abs(found - expected).max() < 1e-9


@pytest.mark.parametrize("shape", [(40,), (12, 30), (5, 9, 40), (1, 7)], ids=str)
@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.0, 3.0])
def test_gaussian_matches_scipy(engine_name, make_array, shape, sigma):
    array = np.random.default_rng(0).normal(size=(2, *shape, 3))
    widths = [sigma * (1 + axis) for axis in range(len(shape))]
    expected = ndimage.gaussian_filter(array, (0, *widths, 0))
    with double_precision(engine_name):
        found = np.asarray(ops.gaussian(make_array(array), sigma=widths))
    assert np.abs(found - expected).max() < 1e-12


def test_large_arrays_are_filtered_block_by_block_to_the_same_result(make_array):
    array = np.random.default_rng(1).normal(size=(2, 37, 41, 43, 2)).astype("float32")
    tensor = make_array(array)
    expected = ndimage.gaussian_filter(array.astype("float64"), (0, 1.5, 1.5, 1.5, 0))
    assert np.abs(np.asarray(ops.gaussian(tensor, sigma=1.5)) - expected).max() < 1e-5
    expected = ndimage.uniform_filter(array.astype("float64"), (0, 7, 5, 3, 0), mode="constant") * 105
    assert np.abs(np.asarray(backend.of(tensor).window_sum(tensor, size=(7, 5, 3))) - expected).max() < 1e-4


def test_numpy_results_do_not_depend_on_the_number_of_threads():
    rng = np.random.default_rng(2)
    image = rng.normal(size=(1, 40, 41, 42, 1)).astype("float32")
    displacement = rng.normal(scale=4, size=(1, 40, 41, 42, 3)).astype("float32")
    found = []
    for count in (1, 3):
        backend.set_threads(count)
        found.append((ops.warp(image, displacement), ops.gaussian(displacement, sigma=2.0)))
    backend.set_threads(None)
    for one, several in zip(*found, strict=True):
        np.testing.assert_array_equal(one, several)


@pytest.mark.parametrize("name", ["window_sum", "gaussian"])
def test_filters_are_their_own_adjoints(engine_name, name):
    if engine_name == "numpy":
        pytest.skip("NumPy has no gradients")
    rng = np.random.default_rng(3)
    array, weight = rng.normal(size=(1, 6, 7, 1)), rng.normal(size=(1, 6, 7, 1))
    options = {"size": (3, 5)} if name == "window_sum" else {"sigma": (1.0, 2.5)}
    numpy = backend.use("numpy")
    (found,) = gradients(engine_name, lambda x: getattr(backend.of(x), name)(x, **options) * like(x, weight), array)
    # <F x, w> is linear in x: its gradient at voxel k is <F e_k, w>.
    for index in np.ndindex(array.shape):
        unit = np.zeros_like(array)
        unit[index] = 1
        assert abs(found[index] - (getattr(numpy, name)(unit, **options) * weight).sum()) < 1e-10


def test_half_floats_are_filtered_in_single_precision(make_array):
    array = np.full((1, 64, 64, 1), 200.0, dtype="float16")
    tensor = make_array(array)
    assert np.asarray(ops.gaussian(tensor, sigma=3.0)).dtype == np.float16
    np.testing.assert_array_equal(np.asarray(ops.gaussian(tensor, sigma=3.0)), array)
    assert np.asarray(backend.of(tensor).window_sum(tensor, size=9))[0, 30, 30, 0] == 16200


def test_bad_options_say_what_was_expected(make_array):
    tensor = make_array(np.zeros((1, 4, 5, 1), dtype="float32"))
    with pytest.raises(OptionError, match="sigma=-1"):
        ops.gaussian(tensor, sigma=-1.0)
    with pytest.raises(OptionError, match="2 here"):
        ops.gaussian(tensor, sigma=(1.0, 1.0, 1.0))
    with pytest.raises(OptionError, match="odd"):
        backend.of(tensor).window_sum(tensor, size=4)
