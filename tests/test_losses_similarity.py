"""MSE, NCC and LNCC against NumPy, SciPy and naive loops; their bounds and what they do not depend on."""

import functools
import itertools

import keras
import numpy as np
import pytest
import scipy.ndimage

from autodiff import assert_gradient_matches_differences, evaluate, value_and_gradient
from keramorph.errors import OptionError, ShapeError
from keramorph.losses import LNCC, MSE, NCC

SHAPES = [(2, 13, 3), (2, 9, 11, 2), (1, 6, 7, 5, 1)]
FLOOR = 1e-5  # of the local variances in LNCC, in units of the image's own


def draw_pair(shape, seed=0):
    rng = np.random.default_rng(seed)
    fixed = rng.normal(size=shape)
    return fixed, 0.6 * fixed + rng.normal(size=shape)


def standardize(image):
    axes = tuple(range(1, image.ndim - 1))
    return (image - image.mean(axes, keepdims=True)) / image.std(axes, keepdims=True)


def correlate_locally(fixed, moved, size):
    """Squared and plain correlation at each voxel, by a loop over windows that end at the border: `(2, *spatial)`."""
    result = np.zeros((2, *fixed.shape))
    for index in itertools.product(*map(range, fixed.shape)):
        window = tuple(slice(max(i - size // 2, 0), i + size // 2 + 1) for i in index)
        f, m = fixed[window] - fixed[window].mean(), moved[window] - moved[window].mean()
        variances = ((f * f).mean() + FLOOR) * ((m * m).mean() + FLOOR)
        covariance = (f * m).mean()
        result[(slice(None), *index)] = covariance**2 / variances, covariance / np.sqrt(variances)
    return result


def expect_lncc(fixed, moved, size, *, squared):
    fixed, moved = standardize(fixed), standardize(moved)
    samples, channels = range(fixed.shape[0]), range(fixed.shape[-1])
    each = [
        [correlate_locally(fixed[b, ..., c], moved[b, ..., c], size)[0 if squared else 1].mean() for c in channels]
        for b in samples
    ]
    return -np.mean(each, axis=1)


@pytest.mark.parametrize("shape", SHAPES)
def test_mse_is_the_mean_of_squared_differences(shape):
    fixed, moved = draw_pair(shape)
    expected = ((fixed - moved) ** 2).reshape(shape[0], -1).mean(1)
    np.testing.assert_allclose(evaluate(MSE().call, fixed, moved), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_ncc_is_the_correlation_coefficient(shape):
    fixed, moved = draw_pair(shape)
    each = [
        [np.corrcoef(fixed[b, ..., c].ravel(), moved[b, ..., c].ravel())[0, 1] for c in range(shape[-1])]
        for b in range(shape[0])
    ]
    np.testing.assert_allclose(evaluate(NCC().call, fixed, moved), -np.mean(each, axis=1), rtol=1e-10)


@pytest.mark.parametrize(
    ("shape", "size", "squared"),
    [(SHAPES[0], 15, True), (SHAPES[1], 5, True), (SHAPES[1], 5, False), (SHAPES[2], 3, True)],
)
def test_lncc_in_a_box_is_that_of_a_loop_over_the_windows(shape, size, squared):
    fixed, moved = draw_pair(shape)
    found = evaluate(LNCC(size, squared=squared).call, fixed, moved)
    np.testing.assert_allclose(found, expect_lncc(fixed, moved, size, squared=squared), rtol=1e-9)


@pytest.mark.parametrize(
    ("shape", "squared"), [(SHAPES[0], True), (SHAPES[1], True), (SHAPES[1], False), (SHAPES[2], True)]
)
def test_lncc_in_a_gaussian_is_that_of_scipys_moments(shape, squared):
    fixed, moved = draw_pair(shape)
    f, m = standardize(fixed), standardize(moved)
    sigma = [0, *[np.sqrt((4.5**2 - 1) / 12)] * (len(shape) - 2), 0]

    def average(values):
        return scipy.ndimage.gaussian_filter(values, sigma)

    covariance = average(f * m) - average(f) * average(m)
    variances = (average(f * f) - average(f) ** 2 + FLOOR) * (average(m * m) - average(m) ** 2 + FLOOR)
    each = covariance**2 / variances if squared else covariance / np.sqrt(variances)
    found = evaluate(LNCC(4.5, window="gaussian", squared=squared).call, fixed, moved)
    np.testing.assert_allclose(found, -each.reshape(shape[0], -1).mean(1), rtol=1e-9)


@pytest.mark.parametrize("loss", [NCC(), LNCC(5), LNCC(5, window="gaussian"), LNCC(5, squared=False)])
def test_an_image_matches_itself_whatever_its_unit_and_offset(loss):
    fixed, _ = draw_pair((2, 24, 25, 1))
    for moved in (fixed, 1000 + 0.01 * fixed, 7e4 * fixed):
        values = evaluate(loss.call, fixed.astype("float32"), moved.astype("float32"))
        np.testing.assert_allclose(values, -1, atol=3e-4)


@pytest.mark.parametrize("loss", [NCC(), LNCC(5, squared=False), LNCC(5, window="gaussian", squared=False)])
def test_an_inverted_contrast_is_the_worst_match_unless_squared(loss):
    fixed, _ = draw_pair((2, 24, 25, 1))
    np.testing.assert_allclose(evaluate(loss.call, fixed, 3 - 2 * fixed), 1, atol=1e-4)
    np.testing.assert_allclose(evaluate(LNCC(5).call, fixed, 3 - 2 * fixed), -1, atol=1e-4)


@pytest.mark.parametrize("loss", [NCC(), LNCC(5), LNCC(5, window="gaussian"), LNCC(5, squared=False)])
def test_gain_and_offset_of_the_intensities_do_not_matter(loss):
    fixed, moved = draw_pair((2, 12, 13, 2))
    expected = evaluate(loss.call, fixed, moved)
    np.testing.assert_allclose(evaluate(loss.call, fixed, 40 * moved - 300), expected, rtol=1e-10)
    np.testing.assert_allclose(evaluate(loss.call, 0.02 * fixed + 5, moved), expected, rtol=1e-10)


def draw_flat_and_bright(rng):
    """What drove float32 to -2233: a flat patch far above the rest, where the moments cancel to less than nothing."""
    image = 1000 + 1e-3 * rng.normal(size=(1, 300, 300, 1))
    image[:, 150:161, 150:161] += 5000
    return image


@pytest.mark.parametrize(("window", "squared"), [("box", True), ("box", False), ("gaussian", False)])
def test_variance_below_rounding_does_not_leave_the_bounds(window, squared):
    rng = np.random.default_rng(1)
    loss = LNCC(5, window=window, squared=squared)
    fixed, moved = draw_flat_and_bright(rng), draw_flat_and_bright(rng)
    single = fixed.astype("float32"), moved.astype("float32")
    value, gradients = value_and_gradient(loss.call, *single)
    assert -1 <= value[0] <= (0 if squared else 1)
    np.testing.assert_allclose(value, evaluate(loss.call, fixed, moved), atol=2e-3)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert np.square(standardize(fixed)).max() * np.finfo("float32").eps > FLOOR, "too easy: nothing cancels"


@pytest.mark.parametrize("loss", [NCC(), LNCC(5), LNCC(5, window="gaussian"), LNCC(5, squared=False)])
@pytest.mark.parametrize("level", [0.0, 0.1, 1e4])
def test_a_constant_image_matches_nothing_and_pulls_nowhere(loss, level):
    fixed, _ = draw_pair((2, 12, 13, 1))
    constant = np.full_like(fixed, level)
    for first, second in ((fixed, constant), (constant, fixed), (constant, constant)):
        value, gradients = value_and_gradient(loss.call, first.astype("float32"), second.astype("float32"))
        np.testing.assert_allclose(value, 0, atol=1e-5)
        assert all(np.isfinite(gradient).all() for gradient in gradients)
    _, (_, gradient) = value_and_gradient(loss.call, fixed.astype("float32"), constant.astype("float32"))
    assert np.abs(gradient).max() == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("loss", [MSE(), NCC(), LNCC(5), LNCC(5, window="gaussian")])
def test_half_precision_images_have_float32_moments(loss, dtype):
    """Squares of these intensities overflow float16 and lose all their digits in bfloat16."""
    images = [(600 + 50 * image).astype("float32") for image in draw_pair((2, 24, 25, 1))]
    value = evaluate(functools.partial(call_in, dtype, loss), *images)
    assert value.dtype == np.float32
    rounded = [evaluate(functools.partial(round_to, dtype), image).astype("float64") for image in images]
    np.testing.assert_allclose(value, evaluate(loss.call, *rounded), rtol=1e-4)


def call_in(dtype, loss, fixed, moved):
    return loss.call(keras.ops.cast(fixed, dtype), keras.ops.cast(moved, dtype))


def round_to(dtype, image):
    return keras.ops.cast(keras.ops.cast(image, dtype), "float32")


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (MSE(), SHAPES[1]),
        (NCC(), SHAPES[1]),
        (LNCC(3), SHAPES[0]),
        (LNCC(3), SHAPES[2]),
        (LNCC(3, squared=False), SHAPES[1]),
        (LNCC(2.5, window="gaussian"), SHAPES[1]),
    ],
    ids=["mse", "ncc", "lncc-1d", "lncc-3d", "plain-lncc", "gaussian-lncc"],
)
def test_gradients_are_those_of_finite_differences(loss, shape):
    assert_gradient_matches_differences(loss.call, *draw_pair(shape))


@pytest.mark.parametrize("loss", [MSE(), NCC(), LNCC(3)])
def test_unequal_shapes_are_named(loss):
    with pytest.raises(ShapeError, match=r"Received: y_true.shape=\(1, 5, 6, 1\), y_pred.shape=\(1, 6, 5, 1\)"):
        loss(np.zeros((1, 5, 6, 1)), np.zeros((1, 6, 5, 1)))
    with pytest.raises(ShapeError, match="channel axis"):
        loss(np.zeros((5, 6)), np.zeros((5, 6)))


@pytest.mark.parametrize(
    "options", [{"size": 4}, {"size": 1}, {"size": 2.5}, {"window": "disc"}, {"size": 1, "window": "gaussian"}]
)
def test_impossible_windows_are_refused(options):
    with pytest.raises(OptionError, match="Received: "):
        LNCC(**options)
