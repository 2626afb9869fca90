"""How well an uncertainty tells where an estimate is wrong, and by how much."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from keramorph._typing import Array
from keramorph.errors import OptionError, ShapeError


class Calibration(NamedTuple):
    """What `measure_calibration` tells of an uncertainty.

    Attributes:
        correlation: Spearman's correlation of uncertainty and error, from -1 to 1: whether it ranks the voxels.
        sparsification: Mean error of what is left when the most uncertain voxels have been left out, `(bins,)`, from
            all of them to the most certain bin; what falls tells of an uncertainty that points at the errors.
        oracle: The same where the voxels of the largest error have been left out, `(bins,)`: no curve is lower.
        sparsification_error: Mean of the difference of both curves, as a share of the mean error; 0 is perfect. What an
            uncertainty by chance reaches is 1 minus the mean of `oracle` over the mean error.
        expected: Mean uncertainty of each of as many bins of equally many voxels, the most certain first, `(bins,)`.
        observed: Root mean square error there, `(bins,)`.
        calibration_error: Mean distance of the two, in the unit of the error; 0 is perfect.
        factor: What the uncertainty is to be multiplied by so that its root mean square is that of the error.

    Example:
        >>> error = np.linspace(0.1, 2.0, 100)
        >>> measure_calibration(error, 0.5 * error).factor
        2.0
    """

    correlation: float
    sparsification: np.ndarray
    oracle: np.ndarray
    sparsification_error: float
    expected: np.ndarray
    observed: np.ndarray
    calibration_error: float
    factor: float


def measure_calibration(error: Array, uncertainty: Array, *, bins: int = 10) -> Calibration:
    """Return how well an uncertainty predicts an error, over all voxels where both are finite.

    Args:
        error: Lengths of the errors, any shape, float, in any unit.
        uncertainty: Expected errors, of the same shape and unit, 0 or more.
        bins: Number of bins of equally many voxels, give or take one.

    Returns:
        Rank correlation, curves and bins.

    Raises:
        ShapeError: If the shapes differ, or there are fewer finite values than bins.
        OptionError: If there is no bin.

    Example:
        >>> random = np.random.default_rng(0)
        >>> sd = random.uniform(0.5, 2.0, 10000)
        >>> found = measure_calibration(np.abs(random.normal(0, sd)), sd)
        >>> round(found.factor, 1), found.calibration_error < 0.05
        (1.0, True)

    References:
        Ilg et al., "Uncertainty Estimates and Multi-Hypotheses Networks for Optical Flow", 2018,
        doi:10.1007/978-3-030-01234-2_40 (sparsification). Levi et al., "Evaluating and Calibrating Uncertainty
        Prediction in Regression Tasks", 2022, doi:10.3390/s22155540 (bins of expected and observed errors).
    """
    error, uncertainty = (np.asarray(array, dtype=np.float64).ravel() for array in _check(error, uncertainty, bins))
    there = np.isfinite(error) & np.isfinite(uncertainty)
    error, uncertainty = error[there], uncertainty[there]
    if error.size < bins:
        raise ShapeError(
            f"At least one finite value for each bin was expected. Received: {error.size} values, bins={bins}. Take "
            "fewer bins."
        )
    order = np.argsort(uncertainty, kind="stable")
    parts = np.array_split(order, bins)
    sparsification, oracle = (_leave_out(error, ranked, bins) for ranked in (order, np.argsort(error, kind="stable")))
    expected = np.array([uncertainty[part].mean() for part in parts])
    observed = np.array([np.sqrt(np.mean(error[part] ** 2)) for part in parts])
    return Calibration(
        _correlate_ranks(error, uncertainty),
        sparsification,
        oracle,
        float(np.mean(sparsification - oracle) / max(error.mean(), 1e-300)),
        expected,
        observed,
        float(np.abs(expected - observed).mean()),
        float(np.sqrt(np.mean(error**2) / max(np.mean(uncertainty**2), 1e-300))),
    )


def _check(error: Array, uncertainty: Array, bins: int) -> tuple[Array, Array]:
    if bins < 1:
        raise OptionError(f"At least one bin was expected. Received: bins={bins!r}. Take 10.")
    if np.shape(error) != np.shape(uncertainty):
        raise ShapeError(
            f"Each error needs an uncertainty. Received: error.shape={np.shape(error)}, uncertainty.shape="
            f"{np.shape(uncertainty)}. Measure both on one grid."
        )
    return error, uncertainty


def _leave_out(error: np.ndarray, ranked: np.ndarray, bins: int) -> np.ndarray:
    """Mean errors of all voxels, and of those that are left as bin after bin of the last ranks goes."""
    ends = np.cumsum([len(part) for part in np.array_split(ranked, bins)])
    return (np.cumsum(error[ranked])[ends - 1] / ends)[::-1]


def _correlate_ranks(error: np.ndarray, uncertainty: np.ndarray) -> float:
    """Spearman's correlation; 0 where all are the same."""
    from scipy.stats import rankdata  # slow to import

    ranks = [rankdata(values) for values in (error, uncertainty)]
    ranks = [values - values.mean() for values in ranks]
    spread = np.sqrt(np.sum(ranks[0] ** 2) * np.sum(ranks[1] ** 2))
    return float(np.sum(ranks[0] * ranks[1]) / spread) if spread > 0 else 0.0
