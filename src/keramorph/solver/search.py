"""The whole search: start, affine, deformation, and what came of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from keramorph import ops
from keramorph._typing import Array
from keramorph.solver.affine import AffineOptions, fit_affine
from keramorph.solver.config import Config
from keramorph.solver.discrete import deform_discretely
from keramorph.solver.greedy import GreedyOptions, deform
from keramorph.solver.pyramid import Layer, Level, build_pyramid, coarsen, coarsen_grid, list_spacings, window_size
from keramorph.solver.result import LevelRecord, Progress, Solution
from keramorph.solver.similarity import LocalCorrelation, Measure, MutualInformation, SelfSimilarity, Similarity
from keramorph.solver.start import list_starts, list_turned_starts
from keramorph.solver.trust import LEAST_CONTRAST, measure_contrast, measure_loss, measure_overlap
from keramorph.solver.unfold import unfold

Listener = Callable[[Progress], None]
Stage = Literal["start", "affine", "deformable"]

_AFFINE_SMALLEST = 24
_SMALLEST = 14
"""Fewest voxels along the longest axis of the coarsest level, of the affine stage and of both."""

_AFFINE_LARGEST = 200_000
"""Voxels beyond which a finer level makes an affine fit slower and no better."""

_DISCRETE_LARGEST = 1_000_000
"""Voxels of a level up to which every shift can be tried at once."""

_AFFINE_ROOM = 2
"""By how much the windows of the affine stage are larger, in spacings: it matches what is further apart."""

_WORTHWHILE = 10
"""Iterations that even the largest level gets."""

_WIDEST = 0.25
"""Share of the longest edge of the fixed image that a window spans at most, where narrower ones will do."""

_DOUBT = 3.0
_MOST_DOUBT = 4.0
"""Smoothing of a level, in that of the parameters, where the one before left as much unexplained as it explained; and
the most that it can be."""

_CLEARLY = 1e-3
"""Loss by which a less trusted start must beat a more trusted one."""

_SCREEN = 16
_FINALISTS = 8
"""Voxels along the longest axis where all turns are tried, and how many of them are then fitted."""

_CONTRAST_OF_TURNS = 0.2
"""Contrast that a turned start must reach. Right ones reach 0.28 and more, unlike modalities 0.1 any way round."""

_INFORMATION_STRAIN = 1.0
"""Similarity that a unit of squared strain, or of turning, costs where mutual information is all there is to go by."""


@dataclass
class _Run:
    """What the stages share: the parameters, the clock, the listener and the history."""

    config: Config
    listener: Listener | None
    began: float = field(default_factory=time.perf_counter)
    history: list[LevelRecord] = field(default_factory=list)

    def notifier(self, stage: Stage, number: int, count: int, most: int) -> Callable[[int, float], None]:
        """Return what a stage calls in each iteration of its level `number` of `count`."""

        def notify(done: int, loss: float) -> None:
            if self.listener is not None:
                seconds = time.perf_counter() - self.began
                self.listener(Progress(stage, number, count, done, most, max(0.0, loss), seconds))

        return notify

    def record(self, stage: Literal["affine", "deformable"], level: Level, losses: list[float], began: float) -> None:
        """Add a level that is done to the history."""
        shape, seconds = level.fixed.grid.shape, time.perf_counter() - began
        self.history.append(LevelRecord(stage, shape, level.spacing, tuple(losses), seconds))


def solve(fixed: Layer, moving: Layer, config: Config, *, listener: Listener | None = None) -> Solution:
    """Return the transform that lays the moving image on the fixed one.

    Args:
        fixed: Fixed image `(1, *spatial, 1)` in [0, 1], float32 of any engine.
        moving: Moving image, of the same engine.
        config: Parameters.
        listener: Called as the search goes on.

    Returns:
        The transform, in arrays of that engine, with losses and history.

    Example:
        >>> from keramorph.solver.pyramid import Layer
        >>> from keramorph.space import Grid
        >>> rows, columns = np.mgrid[:32, :32].astype("float32")
        >>> disc = np.exp(-((rows - 15) ** 2 / 60 + (columns - 15) ** 2 / 30))[None, ..., None]
        >>> layer = Layer(disc, None, Grid.from_spacing((32, 32)))
        >>> solve(layer, layer, Config()).displacement.shape
        (1, 32, 32, 2)
    """
    run = _Run(config, listener)
    levels = _build_levels(fixed, moving, config)
    affine_levels = _pick_affine_levels(levels, config)
    guide = _guide_by_correlation(config)
    matrix = _align(affine_levels, run, guide)
    contrast = measure_contrast(affine_levels[0], matrix, _correlate(affine_levels[0], config.window))
    way: Callable = _deform
    measure: Measure = guide.at(levels[-1])
    if contrast < LEAST_CONTRAST:
        # What was found is no better than chance. Mutual information sees likeness where the correlation sees none, but
        # not enough of it to search far, nor to deform by; self-similarities are too sharp for all but a short search.
        start, headers = _keep_start(affine_levels[-1], config), np.eye(fixed.grid.ndim + 1)
        guide, way, measure = _guide_by_information(), _deform_discretely, SelfSimilarity()
        matrix = _refine(affine_levels, start, run, guide, instead=[start, headers])
        levels = levels[: _count_small(levels)]
    displacement, losses = _deform_if_it_pays(levels, matrix, run, measure, way)
    overlap = measure_overlap(affine_levels[0], matrix)
    return Solution(matrix, displacement, levels[-1].fixed.grid, losses, overlap, contrast, tuple(run.history))


def _deform_if_it_pays(
    levels: list[Level], matrix: np.ndarray, run: _Run, measure: Measure, way: Callable
) -> tuple[Array, dict[str, float]]:
    """Displacement on the last level, none where it does not make the images more alike; and the losses on the way."""
    level = levels[-1]
    losses = {
        "start": measure_loss(level, np.eye(len(matrix)), None, measure),
        "affine": measure_loss(level, matrix, None, measure),
    }
    if run.config.iterations:
        found = unfold(way(levels, matrix, run), level.fixed.grid, matrix)
        loss = measure_loss(level, matrix, found, measure)
        if loss < losses["affine"]:
            return found, {**losses, "deformable": loss}
    return level.still(), {**losses, "deformable": losses["affine"]}


def _correlate(level: Level, window: float) -> LocalCorrelation:
    """Local correlation in windows of so many spacings of a level."""
    return LocalCorrelation(window_size(window * level.spacing, level.fixed.grid))


def _build_levels(fixed: Layer, moving: Layer, config: Config) -> list[Level]:
    """Both images at each spacing, coarse to fine, no finer than the largest number of voxels allows."""
    spacings = list_spacings(fixed.grid, smallest=_SMALLEST, most=config.levels)
    while len(spacings) > 1 and math.prod(coarsen_grid(fixed.grid, spacings[-1]).shape) > config.voxels:
        spacings.pop()
    layers = zip(build_pyramid(fixed, spacings), build_pyramid(moving, spacings), spacings, strict=True)
    return [Level(*layer) for layer in layers]


def _pick_affine_levels(levels: list[Level], config: Config) -> list[Level]:
    """The levels worth an affine fit: coarse ones, but not so coarse that little is left to see."""
    shapes = [level.fixed.grid.shape for level in levels]
    first = next((k for k, shape in enumerate(shapes) if max(shape) >= _AFFINE_SMALLEST), len(levels) - 1)
    picked = [level for level, shape in zip(levels, shapes, strict=True) if math.prod(shape) <= _AFFINE_LARGEST]
    return picked[first : first + config.affine_levels] or [levels[first]]


def _count_small(levels: list[Level]) -> int:
    """How many levels a discrete search can take, one at least."""
    return max(1, sum(math.prod(level.fixed.grid.shape) <= _DISCRETE_LARGEST for level in levels))


@dataclass(frozen=True)
class _Guide:
    """What the affine stage goes by: the measure at a level, and what the transform itself costs."""

    at: Callable[[Level], Similarity]
    strain_weight: float
    turns_are_free: bool


def _guide_by_correlation(config: Config) -> _Guide:
    """The local correlation: for images whose contrast is the same, or the other way round, here and there."""
    window = config.window + _AFFINE_ROOM
    return _Guide(lambda level: _correlate(level, window), config.strain_weight, turns_are_free=True)


def _guide_by_information() -> _Guide:
    """Mutual information: for images of any contrast."""
    return _Guide(lambda _: MutualInformation(), _INFORMATION_STRAIN, turns_are_free=False)


def _align(levels: list[Level], run: _Run, guide: _Guide) -> np.ndarray:
    """Affine transform in millimetres: the best of several starts, refined level by level."""
    headers = np.eye(levels[0].fixed.grid.ndim + 1)
    if run.config.affine_iterations == 0:
        return headers
    began = time.perf_counter()
    matrix, losses = _choose_start(levels[0], len(levels), run, guide)
    run.record("affine", levels[0], losses, began)
    return _refine(levels, matrix, run, guide, instead=[headers], first=2)


def _keep_start(level: Level, config: Config) -> np.ndarray:
    """The better one of the starts that ask nothing of the intensities: headers or centres."""
    starts = list_starts(level.fixed, level.moving)
    plain = [starts[name] for name in (("headers", "centres") if config.affine_iterations else ("headers",))]
    similarity = _correlate(level, config.window)
    losses = [measure_loss(level, matrix, None, similarity) for matrix in plain]
    return plain[int(np.argmin(losses))]


def _refine(
    levels: list[Level], matrix: np.ndarray, run: _Run, guide: _Guide, *, instead: list[np.ndarray], first: int = 1
) -> np.ndarray:
    """A matrix fitted at one level after the other, or one of `instead` where that fits better at the last one."""
    for number, level in enumerate(levels[first - 1 :], start=first):
        began = time.perf_counter()
        matrix, losses = _fit(level, matrix, run, guide, "affine", number, len(levels))
        run.record("affine", level, losses, began)
    # Each level fits what it sees: at the last one the way there must still have paid.
    similarity, candidates = guide.at(levels[-1]), [matrix, *instead]
    return min(candidates, key=lambda candidate: measure_loss(levels[-1], candidate, None, similarity))


def _fit(
    level: Level, matrix: np.ndarray, run: _Run, guide: _Guide, stage: Stage, number: int, count: int
) -> tuple[np.ndarray, list[float]]:
    options = AffineOptions(run.config.affine_iterations, guide.at(level), guide.strain_weight, guide.turns_are_free)
    return fit_affine(level, matrix, options, notify=run.notifier(stage, number, count, options.iterations))


def _choose_start(level: Level, count: int, run: _Run, guide: _Guide) -> tuple[np.ndarray, list[float]]:
    """The start from which the fit at the coarsest level gets furthest."""
    plain = _fit_best(level, list(list_starts(level.fixed, level.moving).values()), count, run, guide)
    turned = _fit_best(level, _screen_turns(level, guide), count, run, guide)
    if turned[1][-1] < plain[1][-1] - _CLEARLY:
        # Some turn or other makes any two images a little more alike: this must be more than that.
        contrast = measure_contrast(level, turned[0], _correlate(level, run.config.window))
        return turned if contrast > _CONTRAST_OF_TURNS else plain
    return plain


def _fit_best(
    level: Level, starts: list[np.ndarray], count: int, run: _Run, guide: _Guide
) -> tuple[np.ndarray, list[float]]:
    """The best of the fits from several starts, the most trusted first."""
    best, *others = (_fit(level, matrix, run, guide, "start", 1, count) for matrix in starts)
    for found in others:
        if found[1][-1] < best[1][-1] - _CLEARLY:
            best = found
    return best


def _screen_turns(level: Level, guide: _Guide) -> list[np.ndarray]:
    """The turns that make the images most alike where they are very small."""
    spacing = level.spacing * max(1.0, max(level.fixed.grid.shape) / _SCREEN)
    small = Level(coarsen(level.fixed, spacing), coarsen(level.moving, spacing), spacing)
    similarity = guide.at(small)
    return sorted(
        list_turned_starts(small.fixed, small.moving),
        key=lambda matrix: measure_loss(small, matrix, None, similarity),
    )[:_FINALISTS]


def _deform(levels: list[Level], matrix: np.ndarray, run: _Run) -> Array:
    """Displacement on the finest level's grid, in its voxels."""
    displacement, doubt = levels[0].still(), 1.0
    for number, level in enumerate(levels, start=1):
        began = time.perf_counter()
        if number > 1:
            displacement = ops.resize_displacement(displacement, shape=level.fixed.grid.shape)
        options = _set_deformation(level, levels[-1].spacing, doubt, run.config)
        notify = run.notifier("deformable", number, len(levels), options.iterations)
        displacement, losses = deform(level, matrix, displacement, options, notify=notify)
        run.record("deformable", level, losses, began)
        doubt = _doubt(losses[-1])
    return displacement


def _deform_discretely(levels: list[Level], matrix: np.ndarray, run: _Run) -> Array:
    """Displacement on the last level's grid, in its voxels."""
    began, level = time.perf_counter(), levels[-1]

    def notify(done: int, most: int, loss: float) -> None:
        run.notifier("deformable", 1, 1, most)(done, loss)

    displacement, losses = deform_discretely(level, matrix, notify=notify)
    run.record("deformable", level, losses, began)
    return displacement


def _doubt(loss: float) -> float:
    """How much more the next level is smoothed, after the loss that one ended with.

    What the one level could not explain, stain or noise, the next one must not explain by bending.
    """
    return min(max(1.0, _DOUBT * loss / max(1 - loss, 1e-6)), _MOST_DOUBT)


def _set_deformation(level: Level, finest: float, doubt: float, config: Config) -> GreedyOptions:
    """What the deformable stage may do at a level of a pyramid whose finest spacing is given."""
    grid = level.fixed.grid
    least = min(config.least_window * finest, _WIDEST * max(np.asarray(grid.shape) * grid.spacing))
    affordable = max(_WORTHWHILE, config.work // math.prod(grid.shape))
    window = max(config.window, least / level.spacing)
    return GreedyOptions(
        min(config.iterations, affordable),
        _correlate(level, window),
        config.update_smoothing,
        config.field_smoothing * doubt,
        config.step,
        config.tolerance,
    )
