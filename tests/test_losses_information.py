"""Mutual information against NumPy's histogram and SciPy's B-splines; MIND-SSC against a loop."""

import itertools

import numpy as np
import pytest
import scipy.interpolate
import scipy.ndimage

from autodiff import assert_gradient_matches_differences, evaluate, value_and_gradient
from keramorph.errors import OptionError, ShapeError
from keramorph.losses import MINDSSC, MutualInformation, mutual_information


def draw_pair(shape, seed=0):
    rng = np.random.default_rng(seed)
    fixed = rng.uniform(size=shape)
    return fixed, np.cos(4 * fixed) + 0.3 * rng.normal(size=shape)


def measure_entropies(joint):
    probabilities = [joint.sum(1), joint.sum(0), joint.ravel()]
    return [-(p[p > 0] * np.log(p[p > 0])).sum() for p in probabilities]


def place(image, bins):
    return 1 + (image - image.min()) / (image.max() - image.min()) * (bins - 3)


def weigh(image, bins):
    """Window weights `(voxels, bins)` of an image, by SciPy's cubic B-spline."""
    spline = scipy.interpolate.BSpline.basis_element(np.arange(-2.0, 3.0), extrapolate=False)
    return np.nan_to_num(spline(place(image, bins).ravel()[:, None] - np.arange(bins)))


def expect_information(fixed, moved, bins, *, normalized):
    joint = weigh(fixed, bins).T @ weigh(moved, bins) / fixed.size
    of_fixed, of_moved, together = measure_entropies(joint)
    return (of_fixed + of_moved) / together if normalized else of_fixed + of_moved - together


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(("shape", "bins"), [((2, 31, 3), 8), ((2, 9, 11, 2), 32), ((1, 5, 6, 7, 1), 16)])
def test_information_is_that_of_a_histogram_of_b_splines(shape, bins, normalized):
    fixed, moved = draw_pair(shape)
    each = [
        [expect_information(fixed[b, ..., c], moved[b, ..., c], bins, normalized=normalized) for c in range(shape[-1])]
        for b in range(shape[0])
    ]
    found = evaluate(MutualInformation(bins, normalized=normalized).call, fixed, moved)
    np.testing.assert_allclose(found, -np.mean(each, axis=1), rtol=1e-9)


def test_intensities_at_bin_centres_make_numpys_histogram_smoothed_by_the_window():
    rng = np.random.default_rng(0)
    bins = 12
    fixed = rng.integers(1, bins - 1, size=(1, 20, 20, 1))
    moved = np.where(rng.uniform(size=fixed.shape) < 0.3, fixed, rng.integers(1, bins - 1, size=fixed.shape))
    for image in (fixed, moved):
        image[0, 0, :2, 0] = 1, bins - 2  # the least and the greatest lie at the centres of bins 1 and bins - 2
    counts, *_ = np.histogram2d(fixed.ravel(), moved.ravel(), bins=np.arange(bins + 1) - 0.5)
    for axis in (0, 1):
        counts = scipy.ndimage.correlate1d(counts, np.array([1, 4, 1]) / 6, axis=axis, mode="constant")
    of_fixed, of_moved, together = measure_entropies(counts / counts.sum())
    found = evaluate(MutualInformation(bins).call, fixed.astype(float), moved.astype(float))
    np.testing.assert_allclose(found, together - of_fixed - of_moved, rtol=1e-9)


def test_blocks_do_not_show(monkeypatch):
    """Neither where a block ends inside the image nor where the last one is not full."""
    fixed, moved = draw_pair((2, 9, 11, 1))
    loss = MutualInformation(16)
    whole, gradients = value_and_gradient(loss.call, fixed, moved)
    monkeypatch.setattr(mutual_information, "_BLOCK", 7)
    blocks, gradients_in_blocks = value_and_gradient(MutualInformation(16).call, fixed, moved)
    np.testing.assert_allclose(blocks, whole, rtol=1e-12)
    for found, expected in zip(gradients_in_blocks, gradients, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("normalized", [False, True])
def test_information_does_not_change_with_gain_offset_or_inversion(normalized):
    fixed, moved = draw_pair((2, 12, 13, 1))
    call = MutualInformation(24, normalized=normalized).call
    expected = evaluate(call, fixed, moved)
    for other in (1000 + 3 * moved, 5 - 0.01 * moved):
        np.testing.assert_allclose(evaluate(call, fixed, other), expected, rtol=1e-8)
    np.testing.assert_allclose(evaluate(call, moved, fixed), expected, rtol=1e-12)


def test_information_of_a_monotone_contrast_stays_far_above_that_of_a_shuffled_image():
    fixed, _ = draw_pair((1, 40, 40, 1))
    call = MutualInformation(24).call
    itself, monotone = evaluate(call, fixed, fixed), evaluate(call, fixed, np.exp(2 * fixed))
    shuffled = evaluate(call, fixed, fixed[:, ::-1])
    assert monotone < 0.8 * itself < 0
    assert 0.2 * itself < shuffled < 0


@pytest.mark.parametrize("normalized", [False, True])
def test_gradient_of_information_is_that_of_finite_differences(normalized):
    """The extremes, which set the range of the bins and count as constants, must stay where they are: a frame does."""
    fixed, moved = draw_pair((2, 7, 8, 2))
    for image in (fixed, moved):
        image[:, 0, :2] = [[-3.0], [4.0]]
    loss = MutualInformation(10, normalized=normalized)
    inside = (slice(None), slice(1, None))

    def call(fixed_inside, moved_inside):
        from keras import ops

        frames = [ops.convert_to_tensor(image[:, :1], dtype="float64") for image in (fixed, moved)]
        return loss.call(
            ops.concatenate([frames[0], fixed_inside], axis=1), ops.concatenate([frames[1], moved_inside], axis=1)
        )

    assert_gradient_matches_differences(call, fixed[inside], moved[inside])


def test_information_with_a_constant_image_is_none():
    fixed, _ = draw_pair((1, 8, 9, 1))
    for level in (0.0, 0.1):
        value, gradients = value_and_gradient(
            MutualInformation().call, fixed.astype("float32"), np.full(fixed.shape, level, "float32")
        )
        np.testing.assert_allclose(value, 0, atol=1e-5)
        assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_too_few_bins_are_refused():
    with pytest.raises(OptionError, match="Received: bins=3"):
        MutualInformation(3)


def describe(image, *, radius, dilation):
    """MIND-SSC of one channel by loops over voxels, pairs and patches."""
    image = (image - image.mean()) / image.std()
    steps = [side * dilation * np.eye(image.ndim, dtype=int)[axis] for axis in range(image.ndim) for side in (-1, 1)]
    pairs = [(a, b) for a, b in itertools.combinations(steps, 2) if (a + b).any()]
    top = np.array(image.shape) - 1

    def read(index):
        return image[tuple(np.clip(index, 0, top))]

    squares = np.zeros((*image.shape, len(pairs)))
    for index in itertools.product(*map(range, image.shape)):
        squares[index] = [(read(index + a) - read(index + b)) ** 2 for a, b in pairs]
    distances = np.zeros_like(squares)
    for index in itertools.product(*map(range, image.shape)):
        patch = tuple(slice(max(i - radius, 0), i + radius + 1) for i in index)
        distances[index] = squares[patch].reshape(-1, len(pairs)).mean(0)
    distances -= distances.min(-1, keepdims=True)
    variance = distances.mean(-1, keepdims=True)
    return np.exp(-distances / np.clip(variance, 1e-3 * variance.mean(), 1e3 * variance.mean()))


@pytest.mark.parametrize(
    ("shape", "pairs", "options"),
    [
        ((2, 9, 11, 2), 4, {"radius": 1, "dilation": 2}),
        ((1, 5, 6, 7, 1), 12, {"radius": 1, "dilation": 2}),
        ((1, 5, 3, 4, 1), 12, {"radius": 0, "dilation": 4}),
    ],
)
def test_mind_is_that_of_loops(shape, pairs, options):
    fixed, moved = draw_pair(shape)
    each = [
        [np.stack([describe(image[b, ..., c], **options) for c in range(shape[-1])], axis=-1) for b in range(shape[0])]
        for image in (fixed, moved)
    ]
    of_fixed, of_moved = np.array(each)
    assert of_fixed.shape == (*shape[:-1], pairs, shape[-1])
    loss = MINDSSC(**options)
    np.testing.assert_allclose(evaluate(loss.describe, fixed), of_fixed, atol=5e-6)
    expected = ((of_fixed - of_moved) ** 2).reshape(shape[0], -1).mean(1)
    np.testing.assert_allclose(evaluate(loss.call, fixed, moved), expected, rtol=1e-5)


def test_mind_does_not_change_with_gain_offset_or_inversion():
    fixed, moved = draw_pair((1, 9, 8, 7, 1))
    call = MINDSSC().call
    expected = evaluate(call, fixed, moved)
    np.testing.assert_allclose(evaluate(call, fixed, 40 - 7 * moved), expected, rtol=1e-9)
    np.testing.assert_allclose(evaluate(call, fixed, 40 - 7 * fixed), 0, atol=1e-20)
    assert 0.01 < expected < 1


@pytest.mark.parametrize("shape", [(2, 7, 8, 1), (1, 5, 6, 5, 1)])
def test_gradient_of_mind_is_that_of_finite_differences(shape):
    assert_gradient_matches_differences(MINDSSC().call, *draw_pair(shape), step=1e-7)


def test_mind_of_a_constant_image_is_finite():
    fixed, _ = draw_pair((1, 8, 9, 1))
    value, gradients = value_and_gradient(MINDSSC().call, fixed.astype("float32"), np.full(fixed.shape, 0.1, "float32"))
    assert 0 < value < 1
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_mind_of_a_signal_is_refused():
    with pytest.raises(ShapeError, match=r"y_true.shape=\(1, 9, 1\)"):
        MINDSSC()(np.zeros((1, 9, 1)), np.zeros((1, 9, 1)))
    with pytest.raises(OptionError, match="dilation=0"):
        MINDSSC(dilation=0)
