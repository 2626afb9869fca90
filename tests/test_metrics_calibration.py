"""An uncertainty against the errors that it expects: SciPy's correlation, loops over voxels, closed forms."""

import numpy as np
import pytest
from scipy import stats

from keramorph.errors import OptionError, ShapeError
from keramorph.metrics import measure_calibration


def draw(count=1003):
    random = np.random.default_rng(2)
    sd = random.gamma(2.0, 1.0, count)
    return np.abs(random.normal(0, sd)), sd * random.uniform(0.5, 2.0, count)


def leave_out(error, uncertainty, bins):
    """By a loop: the voxels of the most uncertain bins go one bin after the other."""
    left = sorted(zip(uncertainty, error, strict=True))
    sizes = [len(part) for part in np.array_split(np.arange(len(left)), bins)]
    curve = []
    while left:
        curve.append(np.mean([e for _, e in left]))
        left = left[: len(left) - sizes.pop()]
    return curve


def test_curves_and_correlation_are_those_of_a_loop_and_of_scipy():
    error, uncertainty = draw()
    found = measure_calibration(error.reshape(17, 59), uncertainty.reshape(17, 59), bins=7)
    assert found.correlation == pytest.approx(stats.spearmanr(error, uncertainty).statistic, abs=1e-12)
    np.testing.assert_allclose(found.sparsification, leave_out(error, uncertainty, 7), rtol=1e-12)
    np.testing.assert_allclose(found.oracle, leave_out(error, error, 7), rtol=1e-12)
    share = np.mean(np.subtract(leave_out(error, uncertainty, 7), leave_out(error, error, 7))) / error.mean()
    assert found.sparsification_error == pytest.approx(share)
    assert 0 < found.sparsification_error < 1 - found.oracle.mean() / error.mean()


def test_bins_hold_expected_and_observed_errors():
    error, uncertainty = draw(20_000)
    found = measure_calibration(error, uncertainty, bins=4)
    edges = np.quantile(uncertainty, [0, 0.25, 0.5, 0.75, 1])
    for k in range(4):
        part = (uncertainty >= edges[k]) & (uncertainty < edges[k + 1] + (k == 3))
        assert found.expected[k] == pytest.approx(uncertainty[part].mean(), rel=1e-3)
        assert found.observed[k] == pytest.approx(np.sqrt((error[part] ** 2).mean()), rel=1e-3)
    assert found.calibration_error == pytest.approx(np.mean(np.abs(found.expected - found.observed)))
    assert found.factor == pytest.approx(np.sqrt((error**2).mean() / (uncertainty**2).mean()))


def test_a_perfect_one_and_one_by_chance():
    error = draw()[0]
    perfect = measure_calibration(error, error, bins=1003)
    assert (perfect.correlation, perfect.sparsification_error) == (pytest.approx(1), 0)
    assert perfect.calibration_error == pytest.approx(0, abs=1e-12)
    chance = measure_calibration(error, np.random.default_rng(5).permutation(error))
    assert abs(chance.correlation) < 0.1
    assert chance.sparsification_error == pytest.approx(1 - chance.oracle.mean() / error.mean(), abs=0.06)


def test_what_is_not_finite_does_not_count():
    error, uncertainty = draw(50)
    holes = np.append(error, [np.nan, 1.0]), np.append(uncertainty, [1.0, np.inf])
    assert measure_calibration(*holes).factor == measure_calibration(error, uncertainty).factor
    assert measure_calibration(error, np.ones(50)).correlation == 0


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ShapeError, match=r"error\.shape=\(3,\)"):
        measure_calibration(np.ones(3), np.ones(4))
    with pytest.raises(ShapeError, match="3 values, bins=10"):
        measure_calibration(np.ones(3), np.ones(3))
    with pytest.raises(OptionError, match="bins=0"):
        measure_calibration(np.ones(3), np.ones(3), bins=0)
