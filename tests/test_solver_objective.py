"""The local correlation against a naive loop, and its derivative against finite differences."""

import itertools

import numpy as np
import pytest

from keramorph.solver.objective import NOISE, compare, measure_fixed, measure_similarity


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
    moments = measure_fixed(fixed, size=size)
    expected = naive_similarity(fixed[0, ..., 0], moved[0, ..., 0], weight[0, ..., 0], size)
    assert measure_similarity(moments, moved, weight, size=size) == pytest.approx(expected, abs=1e-12)
    assert compare(moments, moved, weight, size=size).similarity == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("shape", "size"), [((9, 8), (5, 3)), ((5, 6, 7), (3, 3, 5)), ((6, 7, 1), (5, 3, 1))])
def test_derivative_is_that_of_finite_differences(shape, size):
    fixed, moved, weight = draw(shape, 1)
    moments = measure_fixed(fixed, size=size)
    derivative = compare(moments, moved, weight, size=size).derivative
    step = 1e-5
    for index in itertools.product(*(range(0, n, 2) for n in shape)):
        change = np.zeros_like(moved)
        change[(0, *index, 0)] = step
        after, before = (measure_similarity(moments, moved + k * change, weight, size=size) for k in (1, -1))
        assert derivative[(0, *index, 0)] == pytest.approx(
            (after - before) / (2 * step), abs=1e-6 * abs(derivative).max()
        )


def test_curvature_predicts_the_gain_of_an_image_nearly_aligned():
    # With moved = fixed + d for one voxel, the similarity falls as half the curvature times d², noise left aside.
    fixed, _, _ = draw((14, 13), 2)
    weight = np.ones_like(fixed)
    size, step = (7, 7), 1e-3
    moments = measure_fixed(fixed, size=size)
    change = np.zeros_like(fixed)
    change[0, 7, 6, 0] = step
    top = compare(moments, fixed, weight, size=size)
    after, before = (measure_similarity(moments, fixed + k * change, weight, size=size) for k in (1, -1))
    second = (after - 2 * top.similarity + before) / step**2
    assert -second == pytest.approx(top.curvature[0, 7, 6, 0], rel=0.15)


def test_swapped_contrast_and_other_units_change_nothing():
    fixed, moved, weight = draw((12, 11), 3)
    size = (5, 5)
    moments = measure_fixed(fixed, size=size)
    same = measure_similarity(moments, 1 - moved, weight, size=size)
    assert same == pytest.approx(measure_similarity(moments, moved, weight, size=size), abs=1e-12)


def test_float32_far_from_zero_stays_within_bounds():
    # Without centring, squares near 1e6 leave float32 a variance that is wrong by far more than 1, and negative.
    fixed, moved, weight = draw((20, 21), 4)
    size = (7, 7)
    expected = measure_similarity(measure_fixed(fixed, size=size), moved, weight, size=size)
    far = [(array + 1000).astype(np.float32) for array in (fixed, moved)]
    got = compare(measure_fixed(far[0], size=size), far[1], weight.astype(np.float32), size=size)
    assert float(got.similarity) == pytest.approx(expected, rel=2e-3)
    flat = np.full_like(far[1], 1000.1)
    result = compare(measure_fixed(far[0], size=size), flat, weight.astype(np.float32), size=size)
    assert 0 <= float(result.similarity) < 0.01
    assert np.isfinite(result.derivative).all()


def test_equal_images_gain_by_no_change():
    rng = np.random.default_rng(7)
    faint = rng.random((1, 12, 12, 1)) * np.geomspace(1e-4, 1, 12)[:, None]
    result = compare(measure_fixed(faint, size=(5, 5)), faint, np.ones_like(faint), size=(5, 5))
    assert result.similarity == pytest.approx(1, abs=1e-12)
    assert np.abs(result.derivative).max() < 1e-9 * np.abs(result.curvature).max()


def test_a_smaller_overlap_never_pays():
    fixed, _, weight = draw((16, 16), 5)
    size = (5, 5)
    moments = measure_fixed(fixed, size=size)
    few = np.zeros_like(weight)
    few[:, :4] = 1
    full = measure_similarity(moments, fixed, np.ones_like(weight), size=size)
    assert measure_similarity(moments, fixed, few, size=size) == pytest.approx(0.5 * full, rel=0.05)


def test_every_engine_gives_the_numbers_of_numpy(make_array):
    fixed, moved, weight = draw((9, 8, 7), 6, np.float32)
    size = (5, 3, 7)
    expected = compare(measure_fixed(fixed, size=size), moved, weight, size=size)
    got = compare(measure_fixed(make_array(fixed), size=size), make_array(moved), make_array(weight), size=size)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(np.asarray(one), other, rtol=1e-4, atol=1e-5 * np.abs(other).max())
