"""The linear stage, affine or less: where to start, and from there level by level."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keramorph.solver.affine import AffineOptions, fit_affine
from keramorph.solver.config import Config, Metric
from keramorph.solver.pyramid import Level, coarsen, window_size
from keramorph.solver.run import Run, Stage
from keramorph.solver.similarity import (
    BlockCorrelation,
    Correlation,
    GradientFields,
    LocalCorrelation,
    MeanSquares,
    MutualInformation,
    Similarity,
)
from keramorph.solver.start import list_starts, list_turned_starts, start_at_landmarks
from keramorph.solver.trust import measure_contrast, measure_loss

_AFFINE_ROOM = 2
"""By how much the windows of the affine stage are larger, in spacings: it matches what is further apart."""

_CLEARLY = 1e-3
"""Loss by which a less trusted start must beat a more trusted one."""

_SCREEN = 16
_CANDIDATES, _SKETCH, _FINALISTS = 8, 8, 2
"""Voxels along the longest axis where all turns are tried; how many of them are fitted, by how many iterations; and how
many of these to the end."""

_CONTRAST_OF_TURNS = 0.2
"""Contrast that a turned start must reach. Right ones reach 0.28 and more, unlike modalities 0.1 any way round."""

_INFORMATION_STRAIN = 1.0
"""Similarity that a unit of squared strain, or of turning, costs where mutual information is all there is to go by."""


def correlate(level: Level, window: float) -> LocalCorrelation:
    """Local correlation in windows of so many spacings of a level."""
    return LocalCorrelation(window_size(window * level.spacing, level.fixed.grid))


def correlate_blocks(level: Level, window: float) -> BlockCorrelation:
    """The same, of a level whose displacement lies on a coarser grid: windows of its voxels."""
    return BlockCorrelation(window_size(window * level.spacing, level.field_grid))


def compare_by(metric: Metric, level: Level, window: float) -> Similarity:
    """The measure that a metric stands for at a level, its windows, where it has some, of so many spacings."""
    if metric == "ncc":
        return Correlation()
    if metric == "mse":
        return MeanSquares()
    if metric == "nmi":
        return MutualInformation()
    if metric == "ngf":
        return GradientFields(tuple((level.fixed.grid.spacing / level.spacing).tolist()))
    return correlate(level, window)


@dataclass(frozen=True)
class Guide:
    """What the affine stage goes by: the measure at a level, and what the transform itself costs."""

    at: Callable[[Level], Similarity]
    strain_weight: float
    turns_are_free: bool


def guide_by_metric(config: Config) -> Guide:
    """The metric that was named, or the local correlation: for images that have enough in common to be looked for."""
    window = config.window + _AFFINE_ROOM
    return Guide(lambda level: compare_by(config.metric, level, window), config.strain_weight, turns_are_free=True)


def guide_by_information() -> Guide:
    """Mutual information: for images of any contrast."""
    return Guide(lambda _: MutualInformation(), _INFORMATION_STRAIN, turns_are_free=False)


def align_nearby(levels: list[Level], run: Run, guide: Guide) -> np.ndarray:
    """Affine transform in millimetres, refined from the start that asks nothing of the intensities."""
    start = keep_start(levels[-1], run)
    return refine(levels, start, run, guide, instead=[start, np.eye(len(start))])


def align(levels: list[Level], run: Run, guide: Guide) -> np.ndarray:
    """Affine transform in millimetres: the best of several starts, refined level by level."""
    headers = np.eye(levels[0].fixed.grid.ndim + 1)
    if run.initial is not None:
        return refine(levels, run.initial.matrix, run, guide, instead=[run.initial.matrix])
    if run.config.affine_iterations == 0:
        return headers
    began = time.perf_counter()
    matrix, losses = _choose_start(levels[0], len(levels), run, guide)
    run.record("affine", levels[0], losses, began)
    return refine(levels, matrix, run, guide, instead=[headers], first=2)


def keep_start(level: Level, run: Run) -> np.ndarray:
    """The given start, or the better one of those that ask nothing of the intensities: headers or centres."""
    if run.initial is not None:
        return run.initial.matrix
    starts = list_starts(level.fixed, level.moving)
    plain = [starts[name] for name in (("headers", "centres") if run.config.affine_iterations else ("headers",))]
    plain = [*start_at_landmarks(level), *plain] if run.config.affine_iterations else plain
    similarity = correlate(level, run.config.window)
    losses = [measure_loss(level, matrix, None, similarity) for matrix in plain]
    return plain[int(np.argmin(losses))]


def refine(
    levels: list[Level], matrix: np.ndarray, run: Run, guide: Guide, *, instead: list[np.ndarray], first: int = 1
) -> np.ndarray:
    """A matrix fitted at one level after the other, or one of `instead` where that fits better at the last one."""
    if run.config.affine_iterations == 0 or run.bend() is not None:
        return matrix
    for number, level in enumerate(levels[first - 1 :], start=first):
        began = time.perf_counter()
        matrix, losses = _fit(level, matrix, run, guide, ("affine", number, len(levels)))
        run.record("affine", level, losses, began)
    # Each level fits what it sees: at the last one the way there must still have paid.
    similarity, candidates = guide.at(levels[-1]), [matrix, *instead]
    return min(candidates, key=lambda candidate: measure_loss(levels[-1], candidate, None, similarity))


def _fit(
    level: Level,
    matrix: np.ndarray,
    run: Run,
    guide: Guide,
    place: tuple[Stage, int, int],
    *,
    most: int = 100_000,
) -> tuple[np.ndarray, list[float]]:
    """A matrix fitted at a level; `place` says which stage's it is, its number and how many there are."""
    iterations = min(most, run.config.affine_iterations)
    kind = run.config.linear_kind
    options = AffineOptions(iterations, guide.at(level), guide.strain_weight, guide.turns_are_free, kind)
    return fit_affine(level, matrix, options, notify=run.notifier(*place, iterations))


def _choose_start(level: Level, count: int, run: Run, guide: Guide) -> tuple[np.ndarray, list[float]]:
    """The start from which the fit at the coarsest level gets furthest."""
    starts = [*start_at_landmarks(level), *list_starts(level.fixed, level.moving).values()]
    plain = _fit_best(level, starts, count, run, guide)
    turned = _fit_best(level, _screen_turns(level, count, run, guide), count, run, guide)
    if turned[1][-1] < plain[1][-1] - _CLEARLY:
        # Some turn or other makes any two images a little more alike: this must be more than that.
        contrast = measure_contrast(level, turned[0], correlate(level, run.config.window))
        return turned if contrast > _CONTRAST_OF_TURNS else plain
    return plain


def _fit_best(
    level: Level, starts: list[np.ndarray], count: int, run: Run, guide: Guide
) -> tuple[np.ndarray, list[float]]:
    """The best of the fits from several starts, the most trusted first."""
    best, *others = (_fit(level, matrix, run, guide, ("start", 1, count)) for matrix in starts)
    for found in others:
        if found[1][-1] < best[1][-1] - _CLEARLY:
            best = found
    return best


def _screen_turns(level: Level, count: int, run: Run, guide: Guide) -> list[np.ndarray]:
    """The turns that make the images most alike: of all where they are very small, of some after a short fit."""
    spacing = level.spacing * max(1.0, max(level.fixed.grid.shape) / _SCREEN)
    small = Level(coarsen(level.fixed, spacing), coarsen(level.moving, spacing), spacing)
    similarity = guide.at(small)
    turns = list_turned_starts(small.fixed, small.moving)
    turns.sort(key=lambda matrix: measure_loss(small, matrix, None, similarity))
    sketches = [_fit(level, matrix, run, guide, ("start", 1, count), most=_SKETCH) for matrix in turns[:_CANDIDATES]]
    sketches.sort(key=lambda found: found[1][-1])
    return [matrix for matrix, _ in sketches[:_FINALISTS]]
