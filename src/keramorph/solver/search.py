"""The whole search: start, affine, deformation, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from keramorph import backend
from keramorph._typing import Array
from keramorph.errors import OptionError
from keramorph.solver.align import (
    align,
    align_nearby,
    correlate,
    guide_by_information,
    guide_by_metric,
)
from keramorph.solver.bend import Case, bend
from keramorph.solver.config import Config, Metric
from keramorph.solver.hints import Known, build_hints
from keramorph.solver.motion import project
from keramorph.solver.orientation import Orientation
from keramorph.solver.predicted import choose_start
from keramorph.solver.pyramid import Layer, Level, build_pyramid, coarsen_grid, list_spacings
from keramorph.solver.result import MetricChoice, Solution, StartChoice
from keramorph.solver.run import Initial, Listener, Predict, Run, describe_plan, estimate_rest
from keramorph.solver.similarity import Measure, SelfSimilarity
from keramorph.solver.trust import LEAST_CONTRAST, measure_contrast, measure_loss, measure_overlap
from keramorph.solver.unfold import unfold
from keramorph.space import Grid

_NOTHING = Known()

_AFFINE_SMALLEST = 24
_SMALLEST = 14
"""Fewest voxels along the longest axis of the coarsest level, of the affine stage and of both."""

_AFFINE_LARGEST = 200_000
"""Voxels beyond which a finer level makes an affine fit slower and no better."""

_FOR_UNLIKE = ("nmi", "mind")
"""Metrics for images of unlike contrast: too blind to search far, and too hungry for the finest levels."""

_DISCRETE_LARGEST = 1_000_000
"""Voxels of a level up to which every shift can be tried at once, or each voxel hold a histogram's window."""

_REST_SHARE = 0.6
"""Share of a time budget that all but the deformation may take before the grid is made coarser."""


@dataclass(frozen=True, eq=False)
class Task:
    """A pair to be registered, see `solve`; `predict` is asked for a start of its deformation."""

    fixed: Layer
    moving: Layer
    known: Known = _NOTHING
    initial: Initial | None = None
    listener: Listener | None = None
    predict: Predict | None = None


@dataclass(frozen=True, eq=False)
class _Aligned:
    """A pair before its deformation.

    Args:
        case: What is going to be deformed.
        coarse: The level at which overlap and contrast are measured.
        contrast: See `Solution`.
        measure: What the losses are measured by.
        turn: How the fixed image lies in its array.
        grid: That of the fixed image.
        start: What the deformation begins from; None where nothing was predicted.
    """

    case: Case
    coarse: Level
    contrast: float
    measure: Measure
    turn: Orientation
    grid: Grid
    start: StartChoice | None


def solve(
    fixed: Layer,
    moving: Layer,
    config: Config,
    *,
    known: Known = _NOTHING,
    initial: Initial | None = None,
    listener: Listener | None = None,
    predict: Predict | None = None,
) -> Solution:
    """Return the transform that lays the moving image on the fixed one.

    Args:
        fixed: Fixed image `(1, *spatial, channels)` in [0, 1], float32 of any engine.
        moving: Moving image, of the same engine and with as many channels, each compared with the fixed one.
        config: Parameters.
        known: What is known beside the images.
        initial: Where to start; None to look for a start.
        listener: Called as the search goes on.
        predict: Asked, once the pair is aligned, for a displacement that the deformation may start from.

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
    return solve_all([Task(fixed, moving, known, initial, listener, predict)], config)[0]


def solve_all(tasks: Iterable[Task], config: Config) -> list[Solution]:
    """Return the transforms of several pairs, each as `solve` finds it: those that can be are deformed together.

    Args:
        tasks: The pairs, in arrays of one engine. Images that are finer than any level need are let go of, where they
            were handed over and not lent.
        config: Parameters of all of them. A budget of time is that of each pair: they go one after the other.
    """
    if config.time_budget:
        return [solution for task in tasks for solution in _solve([task], config)]
    return _solve(tasks, config)


def _solve(tasks: Iterable[Task], config: Config) -> list[Solution]:
    """The same, of pairs that may go together."""
    aligned = [_align(task, config) for task in tasks]
    found: Sequence[Array | None] = [None] * len(aligned)
    if config.transform == "deformable" and config.iterations:
        found = bend([one.case for one in aligned])
    solutions = [_conclude(one, displacement) for one, displacement in zip(aligned, found, strict=True)]
    aligned.clear()
    backend.release_memory()
    return [replace(one, displacement=unfold(one.displacement, one.grid, one.matrix)) for one in solutions]


def _align(task: Task, config: Config) -> _Aligned:
    """The linear part of a pair, which is laid out straight for it, and what its images are to be compared by."""
    levels, initial, turn = _lay_out(task, config)
    run = Run(config, task.listener, initial, describe_plan(task.fixed.grid, levels[-1]))
    affine_levels = _pick_affine_levels(levels, config)
    unlike = config.metric in _FOR_UNLIKE
    guide = guide_by_information() if unlike else guide_by_metric(config)
    matrix = (align_nearby if unlike else align)(affine_levels, run, guide)
    contrast = measure_contrast(affine_levels[0], matrix, correlate(affine_levels[0], config.window))
    choice = _choose(config.metric, contrast)
    if choice.name in _FOR_UNLIKE:
        levels = levels[: _count_small(levels)]
        if choice.name == "mind":
            # What is searched lies on the grid of the image.
            levels[-1] = replace(levels[-1], coarser=None)
        if not unlike:
            # What was found is no better than chance. Mutual information sees likeness where the correlation sees none,
            # but not enough of it to search far, nor to deform by; self-similarities are too sharp for all but a short
            # search.
            guide = guide_by_information()
            matrix = align_nearby(affine_levels, run, guide)

    def measure_at(level: Level) -> Measure:
        return SelfSimilarity() if choice.name == "mind" else guide.at(level)

    start = None
    if task.predict is not None and config.transform == "deformable":
        # Self-similarities are searched at one level alone.
        levels = levels[-1:] if choice.name == "mind" else levels
        levels, start = choose_start(task.predict, levels, matrix, run, measure_at)
    case = Case(levels, matrix, run, choice)
    return _Aligned(case, affine_levels[0], contrast, measure_at(levels[-1]), turn, task.fixed.grid, start)


def _lay_out(task: Task, config: Config) -> tuple[list[Level], Initial | None, Orientation]:
    """The levels of a pair, laid out straight; where its search starts; and how the fixed image was laid out."""
    fixed, moving, known, initial = task.fixed, task.moving, task.known, task.initial
    if config.algorithm == "symmetric" and not known.empty:
        raise OptionError(
            "Landmarks and labels guide every algorithm but the symmetric one, which bends both images. Received: "
            'algorithm="symmetric". Choose another one, or leave landmarks and labels out.'
        )
    turns = [Orientation.of(layer.grid) for layer in (fixed, moving)]
    if initial is None and not config.search:
        initial = Initial(np.eye(fixed.grid.ndim + 1))
    if initial is not None and config.transform != "deformable":
        initial = Initial(project(initial.matrix, config.linear_kind, fixed.grid.center))
    if initial is not None and initial.displacement is not None:
        initial = replace(initial, displacement=turns[0].straighten_field(initial.displacement))
    if known.labels is not None:
        known = replace(known, labels=_straighten(turns, known.labels))
    fixed, moving = _straighten(turns, (fixed, moving))
    return _build_levels(fixed, moving, known, _pick_spacings(fixed.grid, config), config), initial, turns[0]


def _conclude(aligned: _Aligned, found: Array | None) -> Solution:
    """The solution of a pair, of the displacement that was found on its last level, if one was looked for.

    What folds for want of room between voxels is left.
    """
    levels, matrix, run = aligned.case.levels, aligned.case.matrix, aligned.case.run
    displacement, losses = _keep_if_it_pays(levels[-1].bearer, aligned, found)
    displacement = aligned.turn.restore_field(displacement)
    grid = aligned.grid.resize(displacement.shape[1:-1])
    overlap = measure_overlap(aligned.coarse, matrix)
    history, choice = tuple(run.history), aligned.case.choice
    return Solution(matrix, displacement, grid, losses, overlap, aligned.contrast, history, choice, aligned.start)


def _keep_if_it_pays(level: Level, aligned: _Aligned, found: Array | None) -> tuple[Array, dict[str, float]]:
    """A displacement, that of the start if it is no better; and the losses on the way."""
    matrix, run, measure = aligned.case.matrix, aligned.case.run, aligned.measure
    begun = run.begin_unpredicted(level)
    affine = measure_loss(level, matrix, begun, measure)
    losses = {"start": measure_loss(level, np.eye(len(matrix)), None, measure), run.config.linear_kind: affine}
    if run.config.transform != "deformable":
        return begun, losses
    best, least = begun, affine
    for name, displacement in (("predicted", run.predicted), ("deformable", found)):
        if displacement is None:
            continue
        loss = measure_loss(level, matrix, displacement, measure)
        losses[name] = loss
        if loss < least or run.config.iterations == 0:
            best, least = displacement, loss
    return best, {**losses, "deformable": least}


def _straighten(turns: list[Orientation], layers: tuple[Layer, Layer]) -> tuple[Layer, Layer]:
    """Layers of the fixed and of the moving image, laid out straight."""
    fixed, moving = (turn.straighten(layer) for turn, layer in zip(turns, layers, strict=True))
    return fixed, moving


def _choose(metric: Metric, contrast: float) -> MetricChoice:
    """The metric that was named; or else the one that the images ask for, which align with such a contrast."""
    if metric != "auto":
        return MetricChoice(metric, "as asked for")
    if contrast < LEAST_CONTRAST:
        return MetricChoice("mind", f"the images hardly agree in contrast: {contrast:.2f}")
    return MetricChoice("lncc", f"the images agree in contrast: {contrast:.2f}")


def _pick_spacings(grid: Grid, config: Config) -> list[float]:
    """Spacings of the levels, coarse to fine, no finer than the largest number of voxels, and the time, allow."""
    spacings = list_spacings(grid, smallest=_SMALLEST, most=config.levels)

    def fits(grid: Grid) -> bool:
        in_time = not config.time_budget or _REST_SHARE * config.time_budget >= estimate_rest(grid)
        return in_time and math.prod(grid.shape) <= config.voxels

    while len(spacings) > 1 and not fits(coarsen_grid(grid, spacings[-1])):
        spacings.pop()
    return spacings


def _build_levels(fixed: Layer, moving: Layer, known: Known, spacings: list[float], config: Config) -> list[Level]:
    """Both images at each spacing, and what is known beside them."""
    layers = build_pyramid(fixed, spacings), build_pyramid(moving, spacings)
    hints = build_hints(known, spacings, config)
    levels = [Level(*each) for each in zip(*layers, spacings, hints, strict=True)]
    *coarser, finest = levels
    if coarser and math.prod(finest.fixed.grid.shape) > config.field_voxels and config.algorithm != "symmetric":
        levels[-1] = replace(finest, coarser=coarser[-1])
    return levels


def _pick_affine_levels(levels: list[Level], config: Config) -> list[Level]:
    """The levels worth an affine fit: coarse ones, but not so coarse that little is left to see."""
    levels = [replace(level, coarser=None) for level in levels]
    shapes = [level.fixed.grid.shape for level in levels]
    first = next((k for k, shape in enumerate(shapes) if max(shape) >= _AFFINE_SMALLEST), len(levels) - 1)
    picked = [level for level, shape in zip(levels, shapes, strict=True) if math.prod(shape) <= _AFFINE_LARGEST]
    return picked[first : first + config.affine_levels] or [levels[first]]


def _count_small(levels: list[Level]) -> int:
    """How many levels such a metric can take, one at least."""
    return max(1, sum(math.prod(level.fixed.grid.shape) <= _DISCRETE_LARGEST for level in levels))
