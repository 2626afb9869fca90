"""Measures that a user may name, against naive loops, and their derivatives against finite differences."""

import itertools

import numpy as np
import pytest
from scipy import ndimage
from scipy.interpolate import BSpline
from scipy.stats import entropy

from keramorph.solver.similarity import (
    Correlation,
    GradientFields,
    LocalCorrelation,
    MeanSquares,
    MutualInformation,
    SoftDice,
)
from keramorph.solver.similarity.local_correlation import NOISE

SPACING = (1.0, 2.0, 0.5)
EDGE = 0.2


def measures(ndim):
    """Each measure, by name."""
    return {
        "mean squares": MeanSquares(),
        "correlation": Correlation(),
        "gradient fields": GradientFields(SPACING[:ndim], noise=EDGE),
        "signed local correlation": LocalCorrelation((5, 3, 5)[:ndim], squared=False),
        "plain information": MutualInformation(10, normalised=False),
    }


each_measure = pytest.mark.parametrize("name", measures(2))


def draw(shape, seed, dtype=np.float64):
    """Two images that have something in common, and weights."""
    rng = np.random.default_rng(seed)
    fixed, noise, weight = (rng.random((1, *shape, 1)).astype(dtype) for _ in range(3))
    return fixed, 0.1 + 0.3 * fixed + 0.4 * noise, weight


def list_voxels(*images):
    return zip(*(image.ravel() for image in images), strict=True)


def naive_squares(fixed, moved, weight):
    shown = sum(w * (f - fixed.mean()) ** 2 for f, w in list_voxels(fixed, weight))
    differing = sum(w * (f - m) ** 2 for f, m, w in list_voxels(fixed, moved, weight))
    enough = 0.5 * sum((f - fixed.mean()) ** 2 for f in fixed.ravel())
    return min(shown / enough, 1) * shown / (shown + differing)


def naive_correlation(fixed, moved, weight):
    of_fixed, of_moved = (np.average(image, weights=weight) for image in (fixed, moved))
    total = weight.sum()
    covariance = sum(w * (f - of_fixed) * (m - of_moved) for f, m, w in list_voxels(fixed, moved, weight)) / total
    shown, other = (
        sum(w * (i - mean) ** 2 for i, w in list_voxels(image, weight))
        for image, mean in ((fixed, of_fixed), (moved, of_moved))
    )
    enough = 0.5 * sum((f - fixed.mean()) ** 2 for f in fixed.ravel())
    squared = (abs(covariance) + NOISE**2) ** 2 / ((shown / total + NOISE**2) * (other / total + NOISE**2))
    return min(shown / enough, 1) * squared


def naive_cosines(fixed, moved, weight):
    """Squared cosines of the slopes, each from the voxels before and after, or from the edge itself."""
    done, counted, all_ = 0.0, 0.0, 0.0
    for index in np.ndindex(*fixed.shape):
        slopes = np.zeros((2, fixed.ndim))
        for axis, (place, count) in enumerate(zip(index, fixed.shape, strict=True)):
            after, before = list(index), list(index)
            after[axis], before[axis] = min(place + 1, count - 1), max(place - 1, 0)
            for k, image in enumerate((fixed, moved)):
                slopes[k, axis] = (image[tuple(after)] - image[tuple(before)]) / (2 * SPACING[axis])
        squares = (slopes**2).sum(axis=1) + EDGE**2
        cosine = (abs(slopes[0] @ slopes[1]) + EDGE**2) ** 2 / squares.prod()
        edge = 1 - EDGE**2 / squares[0]
        done += weight[index] * edge * cosine
        counted += weight[index] * edge
        all_ += edge
    return done / max(counted, 0.5 * all_)


def naive_signed_correlation(fixed, moved, weight):
    done, counted, all_ = 0.0, 0.0, 0.0
    for index in np.ndindex(*fixed.shape):
        window = tuple(slice(max(0, i - s // 2), i + s // 2 + 1) for i, s in zip(index, (5, 3, 5), strict=False))
        f, m = fixed[window], moved[window]
        variance, other = f.var() + NOISE**2, m.var() + NOISE**2
        correlation = (np.mean(f * m) - f.mean() * m.mean() + NOISE**2) / np.sqrt(variance * other)
        contrast = 1 - NOISE**2 / variance
        all_ += contrast
        counted += weight[index] * contrast
        done += weight[index] * contrast * (1 + correlation) / 2
    return done / max(counted, 0.5 * all_)


def naive_information(fixed, moved, weight):
    """Mutual information of the histogram that SciPy's B-splines fill voxel by voxel, in units of log 10."""
    window = BSpline.basis_element([-2, -1, 0, 1, 2], extrapolate=False)
    joint = np.zeros((10, 10))
    for f, m, w in list_voxels(fixed, moved, weight):
        joint += w * np.outer(*(np.nan_to_num(window(1 + 7 * value - np.arange(10))) for value in (f, m)))
    joint /= joint.sum()
    together = entropy(joint.sum(0)) + entropy(joint.sum(1)) - entropy(joint.ravel())
    return min(weight.mean() / 0.5, 1) * together / np.log(10)


NAIVE = {
    "mean squares": naive_squares,
    "correlation": naive_correlation,
    "gradient fields": naive_cosines,
    "signed local correlation": naive_signed_correlation,
    "plain information": naive_information,
}


@each_measure
@pytest.mark.parametrize("share", [1.0, 0.3], ids=["enough", "a small overlap"])
@pytest.mark.parametrize("shape", [(9, 8), (5, 6, 7), (6, 1, 7)], ids=str)
def test_similarity_is_that_of_a_naive_loop(name, shape, share):
    fixed, moved, weight = draw(shape, 0)
    measure, weight = measures(len(shape))[name], share * weight
    known = measure.prepare(fixed)
    expected = NAIVE[name](fixed[0, ..., 0], moved[0, ..., 0], weight[0, ..., 0])
    assert 0.01 < expected < 0.99
    assert measure.measure(known, moved, weight) == pytest.approx(expected, abs=1e-8)
    assert measure.compare(known, moved, weight).similarity == pytest.approx(expected, abs=1e-8)


@each_measure
@pytest.mark.parametrize("share", [1.0, 0.3], ids=["enough", "a small overlap"])
@pytest.mark.parametrize("shape", [(9, 8), (5, 4, 6), (6, 1, 7)], ids=str)
def test_derivative_is_that_of_finite_differences(name, shape, share):
    fixed, moved, weight = draw(shape, 1)
    measure, weight = measures(len(shape))[name], share * weight
    known = measure.prepare(fixed)
    derivative = measure.compare(known, moved, weight).derivative
    assert np.abs(derivative).max() > 0
    for index in itertools.product(*map(range, shape)):
        change = np.zeros_like(moved)
        change[(0, *index, 0)] = 1e-5
        after, before = (measure.measure(known, moved + k * change, weight) for k in (1, -1))
        assert derivative[(0, *index, 0)] == pytest.approx((after - before) / 2e-5, abs=1e-6 * np.abs(derivative).max())


@each_measure
def test_every_engine_gives_the_numbers_of_numpy(name, make_array):
    fixed, moved, weight = draw((9, 8, 7), 6, np.float32)
    measure = measures(3)[name]
    expected = measure.compare(measure.prepare(fixed), moved, weight)
    got = measure.compare(measure.prepare(make_array(fixed)), make_array(moved), make_array(weight))
    alone = measure.measure(measure.prepare(make_array(fixed)), make_array(moved), make_array(weight))
    assert float(alone[0]) == pytest.approx(float(expected.similarity[0]), rel=1e-4)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(np.asarray(one), other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("mean squares", 1.0, 1.0),
        ("correlation", 1.0, 1.1),
        ("gradient fields", 1.6, 2.2),  # the part along the edge, about half, is left in
        ("signed local correlation", 1.0, 1.35),  # what a window of 15 voxels explains by itself, left in
    ],
)
def test_curvature_predicts_the_loss_of_an_image_nearly_aligned(name, least, most):
    # With moved = fixed + d for one voxel, the similarity falls as half the curvature times d².
    fixed, _, _ = draw((14, 13), 2)
    measure, weight, step = measures(2)[name], np.ones_like(fixed), 1e-4
    known = measure.prepare(fixed)
    top = measure.compare(known, fixed, weight)
    assert top.similarity == pytest.approx(1, abs=1e-12)
    assert np.abs(top.derivative).max() < 1e-9 * top.curvature.max()
    change = np.zeros_like(fixed)
    change[0, 7, 6, 0] = step
    after, before = (measure.measure(known, fixed + k * change, weight) for k in (1, -1))
    second = (2 * top.similarity - after - before) / step**2
    assert least * 0.999 < top.curvature[0, 7, 6, 0] / second < most * 1.001


@each_measure
def test_a_step_of_derivative_by_curvature_gains(name):
    rng = np.random.default_rng(10)
    fixed = ndimage.gaussian_filter(rng.random((48, 48)), 3)
    fixed = ((fixed - fixed.min()) / np.ptp(fixed))[None, ..., None]
    noisy = np.clip(fixed + 0.1 * rng.standard_normal(fixed.shape), 0, 1)
    measure, weight = measures(2)[name], np.ones_like(fixed)
    known = measure.prepare(fixed)
    result = measure.compare(known, noisy, weight)
    assert (result.curvature > 0).all()
    way = result.derivative / result.curvature
    gains = [measure.measure(known, noisy + t * way, weight) for t in (0, 0.5, 1)]
    assert gains[0] < gains[1] < gains[2]


@each_measure
def test_a_smaller_overlap_never_pays_and_flat_images_are_alike_in_nothing(name):
    fixed, _, weight = draw((32, 32), 5)
    measure, few = measures(2)[name], np.zeros_like(weight)
    known = measure.prepare(fixed)
    few[:, :8] = 1
    full = measure.measure(known, fixed, np.ones_like(weight))
    assert measure.measure(known, fixed, few) == pytest.approx(0.5 * full, rel=0.1)
    assert measure.measure(known, fixed, 0 * few) == pytest.approx(0, abs=1e-6)
    flat = measure.compare(known, 0 * fixed + 0.5, np.ones_like(weight))
    assert -1e-9 < flat.similarity < 0.6
    assert np.isfinite(flat.derivative).all()
    assert np.isfinite(flat.curvature).all()


def test_other_contrasts_cost_what_each_measure_says():
    fixed, _, weight = draw((20, 21), 3)
    weight = np.ones_like(weight)
    inverted, other = 1 - fixed, 0.4 + 0.3 * fixed
    found = {
        name: [measure.measure(measure.prepare(fixed), image, weight) for image in (other, inverted)]
        for name, measure in measures(2).items()
    }
    assert found["plain information"][1] > 0.3
    assert found["gradient fields"][1] == pytest.approx(1)
    assert found["correlation"][0] == pytest.approx(1, abs=0.03)
    assert found["correlation"][1] == pytest.approx(1)
    assert found["mean squares"][0] < 0.8
    assert found["mean squares"][1] < 0.4
    assert found["signed local correlation"][0] > 0.99
    assert found["signed local correlation"][1] < 0.01


def draw_labels(shape, seed, dtype=np.float64):
    rng = np.random.default_rng(seed)
    fixed, noise = (rng.random((1, *shape, 3)).astype(dtype) for _ in range(2))
    return fixed, 0.6 * fixed + 0.4 * noise, rng.random((1, *shape, 1)).astype(dtype)


@pytest.mark.parametrize("share", [1.0, 0.3], ids=["enough", "a small overlap"])
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 5)], ids=str)
def test_soft_dice_is_that_of_a_naive_loop_and_its_derivative_of_finite_differences(shape, share):
    fixed, moved, weight = draw_labels(shape, 3)
    weight, expected = share * weight, []
    for k in range(3):
        both = shown = total = overlap = 0.0
        for f, m, w in list_voxels(fixed[..., k], moved[..., k], weight[..., 0]):
            overlap += 2 * w * f * m
            both += w * f * f + w * m * m
            shown += w * f * f
            total += f * f
        expected.append(min(shown / (0.5 * total), 1) * overlap / both)
    dice = SoftDice()
    known = dice.prepare(fixed)
    assert dice.measure(known, moved, weight) == pytest.approx(np.mean(expected), abs=1e-9)
    result = dice.compare(known, moved, weight)
    assert result.similarity == pytest.approx(np.mean(expected), abs=1e-9)
    for index in np.ndindex(*moved.shape):
        change = np.zeros_like(moved)
        change[index] = 1e-5
        after, before = (dice.measure(known, moved + k * change, weight) for k in (1, -1))
        assert result.derivative[index] == pytest.approx((after - before) / 2e-5, abs=1e-8)
    same = dice.compare(known, fixed, weight)
    assert np.abs(same.derivative).max() < 1e-9 * same.curvature.max()


def test_every_engine_gives_the_soft_dice_of_numpy(make_array):
    fixed, moved, weight = draw_labels((6, 5, 7), 4, np.float32)
    expected = SoftDice().compare(SoftDice().prepare(fixed), moved, weight)
    got = SoftDice().compare(SoftDice().prepare(make_array(fixed)), make_array(moved), make_array(weight))
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(np.asarray(one), other, rtol=1e-4, atol=1e-6 * np.abs(other).max())
