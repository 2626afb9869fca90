"""Layers that are computed otherwise on some backends: SciPy's and NumPy's numbers and gradients."""

import keras
import numpy as np
import pytest
from scipy import ndimage

from differentiate import gradients
from keramorph.networks.backend_layers import CONVOLUTIONS, POOLINGS, UPSAMPLINGS

pytestmark = pytest.mark.usefixtures("compile_quickly")
SIZES = {1: (9,), 2: (6, 9), 3: (4, 6, 5)}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def make_convolution(ndim):
    """A convolution of other sizes along each axis, and its kernel and bias."""
    sizes = (5, 3, 1)[:ndim]
    kernel, bias = draw(*sizes, 3, 2, seed=1), draw(2, seed=2)
    layer = CONVOLUTIONS[ndim](2, sizes, padding="same", data_format="channels_last")
    layer.build((None, *SIZES[ndim], 3))
    layer.set_weights([kernel, bias])
    return layer, kernel, bias


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_convolution_and_its_gradient_are_scipys_channel_by_channel(ndim, engine_name):
    layer, kernel, bias = make_convolution(ndim)
    image, upstream = draw(2, *SIZES[ndim], 3), draw(2, *SIZES[ndim], 2, seed=3)
    expected, slope = np.zeros(upstream.shape), np.zeros(image.shape)
    for sample, given, found in np.ndindex(2, 3, 2):
        part = kernel[..., given, found]
        expected[sample, ..., found] += ndimage.correlate(image[sample, ..., given], part, mode="constant")
        slope[sample, ..., given] += ndimage.convolve(upstream[sample, ..., found], part, mode="constant")
    np.testing.assert_allclose(to_numpy(layer(image)), expected + bias, atol=1e-4)
    (gradient,) = gradients(engine_name, lambda tensor: layer(tensor) * keras.ops.convert_to_tensor(upstream), image)
    np.testing.assert_allclose(gradient, slope, atol=1e-4)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_pooling_and_growing_are_numpys(ndim):
    image = draw(2, *(2 * n for n in SIZES[ndim]), 3)
    blocks = image.reshape(2, *(part for n in SIZES[ndim] for part in (n, 2)), 3)
    pooled = blocks.max(axis=tuple(range(2, 2 * ndim + 1, 2)))
    np.testing.assert_array_equal(to_numpy(POOLINGS[ndim](2)(image)), pooled)
    grown = image
    for axis in range(1, ndim + 1):
        grown = grown.repeat(2, axis)
    np.testing.assert_array_equal(to_numpy(UPSAMPLINGS[ndim](2)(image)), grown)
