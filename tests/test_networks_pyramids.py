"""LapIRN and DualStream: fields of all levels add up as they should, weights are counted, correlations are loops."""

from itertools import product

import keras
import numpy as np
import pytest

from autodiff import assert_gradient_matches_differences
from keramorph.errors import OptionError, ShapeError
from keramorph.networks import DualStream, LapIRN
from keramorph.networks.correlation import Correlation
from network_cases import SAME_ON_ALL, call, draw, draw_inputs, set_head, stir, to_numpy

pytestmark = pytest.mark.usefixtures("compile_quickly")


def count_convolution(inputs, outputs, ndim=2):
    return (3**ndim * inputs + 1) * outputs


@SAME_ON_ALL
@pytest.mark.parametrize(("shape", "channels"), [((16, 16), 1), ((8, 8, 8), 2)])
def test_lapirn_has_the_weights_of_its_convolutions(shape, channels):
    ndim, filters, blocks = len(shape), 6, 2
    network = LapIRN((*shape, channels), levels=2, filters=filters, blocks=blocks)
    shared = (2 + 2 * blocks) * count_convolution(filters, filters, ndim)
    shared += count_convolution(2 * filters, filters, ndim) + count_convolution(filters, ndim, ndim)
    first = count_convolution(2 * channels, filters, ndim) + count_convolution(2 * channels + ndim, filters, ndim)
    assert network.count_params() == 2 * shared + first


@pytest.mark.parametrize("mode", ["displacement", "velocity"])
def test_lapirn_adds_up_constant_fields_of_all_levels(mode):
    """A voxel of level k is 2**k voxels of the image; a constant velocity is integrated to that displacement."""
    network = LapIRN((16, 20, 1), mode=mode, steps=3, filters=4, blocks=1)
    heads = {f"{mode}_2": (0.5, -0.25), "head_1": (-1.0, 0.5), "head_0": (0.25, 1.0)}
    for name, values in heads.items():
        set_head(network, name, values)
    reader = keras.Model(
        network.inputs, [network.get_layer(f"displacement_{level}").output for level in (2, 1)] + [network.output]
    )
    coarse, middle, outputs = call(reader, draw_inputs(network, 16, 20))
    assert (coarse.shape[1:], middle.shape[1:]) == ((4, 6, 2), (8, 12, 2))
    for found, expected in [
        (coarse, (0.5, -0.25)),
        (middle, (0.0, 0.0)),
        (outputs["displacement"], (0.25, 1.0)),
    ]:
        np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1e-5)


def test_lapirns_pyramid_is_of_means():
    network = LapIRN((16, 24, 1), filters=4, blocks=1)
    names = ["fixed_1", "fixed_2", "moving_1"]
    reader = keras.Model(network.inputs, [network.get_layer(name).output for name in names])
    fixed, moving = draw_inputs(network, 16, 24)
    for found, image, factor in zip(call(reader, [fixed, moving]), (fixed, fixed, moving), (2, 4, 2), strict=True):
        means = image.reshape(1, 16 // factor, factor, 24 // factor, factor, 1).mean(axis=(2, 4))
        np.testing.assert_allclose(found, means, atol=1e-6)


@pytest.mark.parametrize("radius", [1, 2])
def test_correlation_is_a_loop_over_voxels_and_offsets(radius):
    fixed, moving = draw(2, 4, 5, 3), draw(2, 4, 5, 3, seed=1)
    expected = np.zeros((2, 4, 5, (2 * radius + 1) ** 2))
    for b, i, j in np.ndindex(2, 4, 5):
        for k, (di, dj) in enumerate(product(range(-radius, radius + 1), repeat=2)):
            if 0 <= i + di < 4 and 0 <= j + dj < 5:
                expected[b, i, j, k] = fixed[b, i, j] @ moving[b, i + di, j + dj] / 3
    found = Correlation(radius, data_format="channels_last")([fixed, moving])
    np.testing.assert_allclose(to_numpy(found), expected, atol=1e-6)
    first = Correlation(radius, data_format="channels_first")([np.moveaxis(x, -1, 1) for x in (fixed, moving)])
    np.testing.assert_allclose(np.moveaxis(to_numpy(first), 1, -1), expected, atol=1e-6)


@pytest.mark.parametrize("sizes", [(5,), (3, 4), (2, 3, 2)])
def test_gradient_of_the_correlation(sizes):
    layer, count = Correlation(1, data_format="channels_last"), 3 ** len(sizes)
    weights = np.random.default_rng(2).standard_normal((1, *sizes, count))

    def weigh(fixed, moving):
        return keras.ops.multiply(layer([fixed, moving]), weights)

    features = (np.random.default_rng(seed).standard_normal((1, *sizes, 2)) for seed in (0, 1))
    assert_gradient_matches_differences(weigh, *features)


def test_correlation_refuses_what_it_cannot_compare():
    with pytest.raises(OptionError, match="Received: radius=-1"):
        Correlation(-1)
    with pytest.raises(ShapeError, match="Received: "):
        Correlation(data_format="channels_last")([draw(1, 4, 5, 3), draw(1, 4, 5, 2)])


@SAME_ON_ALL
def test_dual_stream_has_the_weights_of_its_convolutions():
    """The encoder counts once: both images go through the same one."""
    network = DualStream((16, 16, 1), encoder=(3, 5), decoder=(6, 4))
    encoder = [(1, 3), (3, 3), (3, 5), (5, 5)]
    bottom = [(2 * 5 + 9, 6), (6, 6), (6, 2)]
    top = [(2 * 3 + 9 + 2 + 6, 4), (4, 4), (4, 2)]
    assert network.count_params() == sum(count_convolution(*pair) for pair in encoder + bottom + top)


@pytest.mark.parametrize(("finest", "expected"), [(0, (3.25, -2.0)), (1, (6.5, -4.0))])
def test_dual_stream_composes_constant_fields_of_all_levels(finest, expected):
    network = DualStream((17, 20, 1), encoder=(2, 2, 2), decoder=(2, 2, 2), finest=finest)
    coarsest = finest + 2
    heads = {
        f"displacement_{coarsest}": (0.5, -0.25),
        f"head_{coarsest - 1}": (0.5, -1.0),
        f"head_{finest}": (0.25, 1.0),
    }
    for name, value in heads.items():
        set_head(network, name, value)
    displacement = call(network, draw_inputs(network, 17, 20))["displacement"]
    np.testing.assert_allclose(displacement, np.broadcast_to(expected, (1, 17, 20, 2)), atol=1e-5)


def test_dual_streams_finer_level_sees_what_is_left():
    """A moving image that is the fixed one 4 voxels on: once the coarse level has found it, features coincide."""
    keras.utils.set_random_seed(0)
    network = DualStream((32, 32, 1), encoder=(2, 2, 2), decoder=(2, 2, 2))
    fixed = np.zeros((1, 32, 32, 1), "float32")
    fixed[:, 12:16, 12:20] = draw(1, 4, 8, 1)
    moving = np.roll(fixed, 4, axis=1)
    set_head(network, "displacement_2", (1.0, 0.0))
    set_head(network, "head_1", (0.0, 0.0))
    encoder = network.get_layer("encoder")
    reader = keras.Model(network.inputs, [network.get_layer(f"moved_{level}").output for level in (1, 0)])
    moved, expected = call(reader, [fixed, moving]), call(encoder, fixed)
    inner = (0, slice(4, -4), slice(4, -4))  # further out, level 1 saw the frame of zeros about its features
    for level in (1, 0):
        np.testing.assert_allclose(moved[1 - level][inner], expected[level][inner], atol=1e-4)


def test_dual_stream_learns_a_shift():
    keras.utils.set_random_seed(0)
    x, y = np.meshgrid(np.arange(16), np.arange(16), indexing="ij")
    fixed, moving = (np.exp(-((x - c) ** 2 + (y - 8) ** 2) / 8)[None, ..., None].astype("float32") for c in (9, 7))
    network = DualStream((16, 16, 1), encoder=(4, 8), decoder=(8, 8))
    network.compile(keras.optimizers.Adam(1e-2), loss={"moved": "mse", "displacement": None})
    losses = [float(network.train_on_batch([fixed, moving], {"moved": fixed})) for _ in range(15)]
    assert losses[-1] < 0.5 * losses[0]


@SAME_ON_ALL
def test_all_weights_of_a_pyramid_are_used():
    """Another value of any kernel is another field."""
    network = stir(LapIRN((8, 8, 1), levels=2, filters=2, blocks=1))
    inputs = draw_inputs(network, 8, 8)
    before, weights = to_numpy(network(inputs)["displacement"]), network.get_weights()
    for index, weight in enumerate(weights):
        if weight.ndim > 1:
            network.set_weights([w + 0.1 * (k == index) for k, w in enumerate(weights)])
            assert np.abs(to_numpy(network(inputs)["displacement"]) - before).max() > 1e-6, network.weights[index].path
