"""Measures of similarity against naive loops and other people's, their derivatives against finite differences."""

import itertools

import numpy as np
import pytest
from scipy import ndimage
from scipy.interpolate import BSpline
from scipy.stats import entropy

from keramorph.solver.similarity import LocalCorrelation, MutualInformation, SelfSimilarity
from keramorph.solver.similarity.local_correlation import NOISE


def naive_similarity(fixed, moved, weight, size):
    """Mean of (|r| + e)² / ((v_f + e)(v_m + e)) over windows cut off at the edges, weighed by v_f / (v_f + e)."""
    noise, total, counted, all_ = NOISE**2, 0.0, 0.0, 0.0
    for index in itertools.product(*map(range, fixed.shape)):
        window = tuple(slice(max(0, i - s // 2), i + s // 2 + 1) for i, s in zip(index, size, strict=True))
        f, m = fixed[window], moved[window]
        covariance = abs(np.mean(f * m) - f.mean() * m.mean())
        contrast = f.var() / (f.var() + noise)
        all_ += contrast
        counted += weight[index] * contrast
        total += weight[index] * contrast * (covariance + noise) ** 2 / ((f.var() + noise) * (m.var() + noise))
    return total / max(counted, 0.5 * all_)


def draw(shape, seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    fixed, moved, weight = (rng.random((1, *shape, 1)).astype(dtype) for _ in range(3))
    return fixed, moved, weight


@pytest.mark.parametrize(
    ("shape", "size"), [((11, 9), (5, 3)), ((5, 6, 7), (3, 5, 1)), ((4, 9, 1), (7, 7, 1)), ((6, 7, 8), (9, 9, 9))]
)
def test_similarity_is_that_of_a_naive_loop(shape, size):
    fixed, moved, weight = draw(shape, 0)
    correlation = LocalCorrelation(size)
    moments = correlation.prepare(fixed)
    expected = naive_similarity(fixed[0, ..., 0], moved[0, ..., 0], weight[0, ..., 0], size)
    assert correlation.measure(moments, moved, weight) == pytest.approx(expected, abs=1e-12)
    assert correlation.compare(moments, moved, weight).similarity == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("shape", "size"), [((9, 8), (5, 3)), ((5, 6, 7), (3, 3, 5)), ((6, 7, 1), (5, 3, 1))])
def test_derivative_is_that_of_finite_differences(shape, size):
    fixed, moved, weight = draw(shape, 1)
    correlation = LocalCorrelation(size)
    moments = correlation.prepare(fixed)
    derivative = correlation.compare(moments, moved, weight).derivative
    step = 1e-5
    for index in itertools.product(*(range(0, n, 2) for n in shape)):
        change = np.zeros_like(moved)
        change[(0, *index, 0)] = step
        after, before = (correlation.measure(moments, moved + k * change, weight) for k in (1, -1))
        assert derivative[(0, *index, 0)] == pytest.approx(
            (after - before) / (2 * step), abs=1e-6 * abs(derivative).max()
        )


def test_curvature_predicts_the_gain_of_an_image_nearly_aligned():
    # With moved = fixed + d for one voxel, the similarity falls as half the curvature times d², noise left aside.
    fixed, _, _ = draw((14, 13), 2)
    weight = np.ones_like(fixed)
    size, step = (7, 7), 1e-3
    correlation = LocalCorrelation(size)
    moments = correlation.prepare(fixed)
    change = np.zeros_like(fixed)
    change[0, 7, 6, 0] = step
    top = correlation.compare(moments, fixed, weight)
    after, before = (correlation.measure(moments, fixed + k * change, weight) for k in (1, -1))
    second = (after - 2 * top.similarity + before) / step**2
    assert -second == pytest.approx(top.curvature[0, 7, 6, 0], rel=0.15)


def test_swapped_contrast_and_other_units_change_nothing():
    fixed, moved, weight = draw((12, 11), 3)
    size = (5, 5)
    correlation = LocalCorrelation(size)
    moments = correlation.prepare(fixed)
    same = correlation.measure(moments, 1 - moved, weight)
    assert same == pytest.approx(correlation.measure(moments, moved, weight), abs=1e-12)


def test_float32_far_from_zero_stays_within_bounds():
    # Without centring, squares near 1e6 leave float32 a variance that is wrong by far more than 1, and negative.
    fixed, moved, weight = draw((20, 21), 4)
    correlation = LocalCorrelation((7, 7))
    expected = correlation.measure(correlation.prepare(fixed), moved, weight)
    far = [(array + 1000).astype(np.float32) for array in (fixed, moved)]
    known = correlation.prepare(far[0])
    got = correlation.compare(known, far[1], weight.astype(np.float32))
    assert float(got.similarity[0]) == pytest.approx(expected, rel=2e-3)
    flat = np.full_like(far[1], 1000.1)
    result = correlation.compare(known, flat, weight.astype(np.float32))
    assert 0 <= float(result.similarity[0]) < 0.01
    assert np.isfinite(result.derivative).all()


def test_equal_images_gain_by_no_change():
    rng = np.random.default_rng(7)
    faint = rng.random((1, 12, 12, 1)) * np.geomspace(1e-4, 1, 12)[:, None]
    correlation = LocalCorrelation((5, 5))
    result = correlation.compare(correlation.prepare(faint), faint, np.ones_like(faint))
    assert result.similarity == pytest.approx(1, abs=1e-12)
    assert np.abs(result.derivative).max() < 1e-9 * np.abs(result.curvature).max()


@pytest.mark.parametrize(
    "measure",
    [LocalCorrelation((5, 5)), MutualInformation(8), SelfSimilarity()],
    ids=["correlation", "information", "self-similarity"],
)
def test_a_smaller_overlap_never_pays(measure):
    fixed, _, weight = draw((16, 16), 5)
    known = measure.prepare(fixed)
    few = np.zeros_like(weight)
    few[:, :4] = 1
    full = measure.measure(known, fixed, np.ones_like(weight))
    assert measure.measure(known, fixed, few) == pytest.approx(0.5 * full, rel=0.05)
    assert measure.measure(known, fixed, 0 * few) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("measure", [LocalCorrelation((5, 3, 7)), MutualInformation()], ids=["local", "information"])
def test_every_engine_gives_the_numbers_of_numpy(measure, make_array):
    fixed, moved, weight = draw((9, 8, 7), 6, np.float32)
    expected = measure.compare(measure.prepare(fixed), moved, weight)
    images = (make_array(array) for array in (moved, weight))
    got = measure.compare(measure.prepare(make_array(fixed)), *images)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(np.asarray(one), other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def naive_information(fixed, moved, weight, bins):
    """2 I / (H_f + H_m) of the histogram that SciPy's B-splines fill voxel by voxel."""
    window = BSpline.basis_element([-2, -1, 0, 1, 2], extrapolate=False)
    joint = np.zeros((bins, bins))
    for f, m, w in zip(fixed.ravel(), moved.ravel(), weight.ravel(), strict=True):
        places = (1 + (bins - 3) * value - np.arange(bins) for value in (f, m))
        joint += w * np.outer(*(np.nan_to_num(window(place)) for place in places))
    joint /= joint.sum()
    total = entropy(joint.sum(0)) + entropy(joint.sum(1))
    return 2 * (total - entropy(joint.ravel())) / total


def test_information_is_that_of_a_naive_histogram():
    fixed, moved, weight = draw((7, 6, 5), 8)
    moved = 0.5 * moved + 0.5 * np.cos(4 * fixed) ** 2
    information = MutualInformation(12)
    known = information.prepare(fixed)
    expected = naive_information(fixed, moved, 0.5 + weight, 12)
    assert information.measure(known, moved, 0.5 + weight) == pytest.approx(expected, abs=1e-8)
    assert information.compare(known, moved, 0.5 + weight).similarity == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("share", [1.0, 0.3], ids=["enough", "a small overlap"])
def test_derivative_of_the_information_is_that_of_finite_differences(share):
    fixed, moved, weight = draw((9, 8), 9)
    moved, weight = 0.1 + 0.4 * (moved + fixed), share * (0.5 + 0.5 * weight)
    information = MutualInformation(10)
    known = information.prepare(fixed)
    derivative = information.compare(known, moved, weight).derivative
    assert np.abs(derivative).max() > 0
    for index in itertools.product(range(9), range(8)):
        change = np.zeros_like(moved)
        change[(0, *index, 0)] = 1e-5
        after, before = (information.measure(known, moved + k * change, weight) for k in (1, -1))
        assert derivative[(0, *index, 0)] == pytest.approx((after - before) / 2e-5, abs=1e-6 * np.abs(derivative).max())


def test_information_sees_what_any_contrast_has_in_common_and_its_step_gains():
    rng = np.random.default_rng(10)
    fixed = ndimage.gaussian_filter(rng.random((48, 48)), 3)
    fixed = ((fixed - fixed.min()) / np.ptp(fixed))[None, ..., None]
    other = 4 * (fixed - 0.5) ** 2  # neither rises nor falls with it
    weight, information = np.ones_like(fixed), MutualInformation()
    known = information.prepare(fixed)
    chance = information.measure(known, np.roll(other, 12, axis=1), weight)
    assert information.measure(known, other, weight) > 4 * chance
    # A step of derivative / curvature, as of a sum of squares, takes noise away.
    noisy = np.clip(other + 0.15 * rng.standard_normal(other.shape), 0, 1)
    result = information.compare(known, noisy, weight)
    way = result.derivative / result.curvature
    gains = [information.measure(known, noisy + t * way, weight) for t in (0, 0.5, 1)]
    assert gains[0] < gains[1] < gains[2]
