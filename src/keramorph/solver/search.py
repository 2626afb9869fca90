"""The whole search: start, affine, deformation, and what came of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from keramorph import backend, ops
from keramorph._typing import Array
from keramorph.errors import OptionError
from keramorph.solver.align import (
    align,
    align_nearby,
    compare_by,
    correlate,
    correlate_blocks,
    guide_by_information,
    guide_by_metric,
)
from keramorph.solver.bspline import BSpline
from keramorph.solver.config import Algorithm, Config, Metric
from keramorph.solver.deformation import Deformation, DeformationOptions, deform
from keramorph.solver.discrete import deform_discretely
from keramorph.solver.greedy import Greedy
from keramorph.solver.hints import Known, build_hints
from keramorph.solver.histogram import match_histograms
from keramorph.solver.motion import project
from keramorph.solver.orientation import Orientation
from keramorph.solver.pyramid import Layer, Level, build_pyramid, coarsen_grid, list_spacings
from keramorph.solver.result import MetricChoice, Solution
from keramorph.solver.run import Initial, Listener, Run, describe_plan, estimate_rest
from keramorph.solver.similarity import Measure, SelfSimilarity
from keramorph.solver.symmetric import Symmetric
from keramorph.solver.trust import LEAST_CONTRAST, measure_contrast, measure_loss, measure_overlap
from keramorph.solver.unfold import unfold
from keramorph.solver.velocity import Velocity
from keramorph.space import Grid

_ALGORITHMS: dict[Algorithm, tuple[type[Deformation], type[Deformation]]] = {
    "greedy": (Greedy, Greedy),
    "velocity": (Velocity, Velocity),
    "symmetric": (Symmetric, Symmetric),
    "bspline": (BSpline, BSpline),
    "mixed": (BSpline, Greedy),
}
"""What is done at the coarser levels, and at the finest."""

_NOTHING = Known()

_AFFINE_SMALLEST = 24
_SMALLEST = 14
"""Fewest voxels along the longest axis of the coarsest level, of the affine stage and of both."""

_AFFINE_LARGEST = 200_000
"""Voxels beyond which a finer level makes an affine fit slower and no better."""

_FOR_UNLIKE = ("nmi", "mind")
"""Metrics for images of unlike contrast: too blind to search far, and too hungry for the finest levels."""

_LINEAR = ("auto", "lncc", "ncc")
"""Metrics that take one image for a linear function of the other."""

_DISCRETE_LARGEST = 1_000_000
"""Voxels of a level up to which every shift can be tried at once, or each voxel hold a histogram's window."""

_HISTOGRAM = 8
"""Voxels that take no longer than one which is counted in a histogram."""

_BLOCK = 0.5
"""Voxels of the same time where blocks of them have one vector, and one that is compared by the others' sums."""

_WORTHWHILE = 10
"""Iterations that even the largest level gets."""

_WIDEST = 0.25
"""Share of the longest edge of the fixed image that a window spans at most, where narrower ones will do."""

_REST_SHARE = 0.6
"""Share of a time budget that all but the deformation may take before the grid is made coarser."""

_SMOOTHER, _PATIENT = 1.4, 0.15
"""Smoothing of an update in that of the next finer level, and tolerance of coarse levels in that of the finest: what
they leave undone, that one has to make up for at many times the cost."""

_DOUBTFUL, _DOUBT, _MOST_DOUBT = 0.4, 3, 4.0
"""Ratio of what a level left unexplained to what it explained from which the next one is smoothed more; by which power
of the ratio in that one; and how many times as much at most."""


def solve(
    fixed: Layer,
    moving: Layer,
    config: Config,
    *,
    known: Known = _NOTHING,
    initial: Initial | None = None,
    listener: Listener | None = None,
) -> Solution:
    """Return the transform that lays the moving image on the fixed one.

    Args:
        fixed: Fixed image `(1, *spatial, channels)` in [0, 1], float32 of any engine.
        moving: Moving image, of the same engine and with as many channels, each compared with the fixed one.
        config: Parameters.
        known: What is known beside the images.
        initial: Where to start; None to look for a start.
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
    grid, (fixed, moving) = fixed.grid, _straighten(turns, (fixed, moving))
    levels = _build_levels(fixed, moving, known, _pick_spacings(fixed.grid, config), config)
    plan = describe_plan(fixed.grid, levels[-1])
    # Where they are finer than any level, nothing asks for the images themselves any more.
    del fixed, moving
    found = _search(levels, Run(config, listener, initial, plan))
    del levels
    backend.release_memory()
    displacement = turns[0].restore_field(found.displacement)
    grid = grid.resize(displacement.shape[1:-1])
    return replace(found, displacement=unfold(displacement, grid, found.matrix), grid=grid)


def _straighten(turns: list[Orientation], layers: tuple[Layer, Layer]) -> tuple[Layer, Layer]:
    """Layers of the fixed and of the moving image, laid out straight."""
    fixed, moving = (turn.straighten(layer) for turn, layer in zip(turns, layers, strict=True))
    return fixed, moving


def _search(levels: list[Level], run: Run) -> Solution:
    """The transform between images that are laid out straight; what folds for want of room between voxels is left."""
    affine_levels = _pick_affine_levels(levels, run.config)
    unlike = run.config.metric in _FOR_UNLIKE
    guide = guide_by_information() if unlike else guide_by_metric(run.config)
    matrix = (align_nearby if unlike else align)(affine_levels, run, guide)
    contrast = measure_contrast(affine_levels[0], matrix, correlate(affine_levels[0], run.config.window))
    choice = _choose(run.config.metric, contrast)
    if choice.name in _FOR_UNLIKE:
        levels = levels[: _count_small(levels)]
        if not unlike:
            # What was found is no better than chance. Mutual information sees likeness where the correlation sees none,
            # but not enough of it to search far, nor to deform by; self-similarities are too sharp for all but a short
            # search.
            guide = guide_by_information()
            matrix = align_nearby(affine_levels, run, guide)
    way: Callable = _deform_discretely if choice.name == "mind" else _deform
    measure: Measure = SelfSimilarity() if choice.name == "mind" else guide.at(levels[-1])
    displacement, losses = _deform_if_it_pays(levels, matrix, run, measure, way)
    overlap = measure_overlap(affine_levels[0], matrix)
    return Solution(matrix, displacement, levels[-1].field_grid, losses, overlap, contrast, tuple(run.history), choice)


def _choose(metric: Metric, contrast: float) -> MetricChoice:
    """The metric that was named; or else the one that the images ask for, which align with such a contrast."""
    if metric != "auto":
        return MetricChoice(metric, "as asked for")
    if contrast < LEAST_CONTRAST:
        return MetricChoice("mind", f"the images hardly agree in contrast: {contrast:.2f}")
    return MetricChoice("lncc", f"the images agree in contrast: {contrast:.2f}")


def _deform_if_it_pays(
    levels: list[Level], matrix: np.ndarray, run: Run, measure: Measure, way: Callable
) -> tuple[Array, dict[str, float]]:
    """Displacement on the last level, that of the start if no better one is found; and the losses on the way."""
    level = levels[-1].bearer
    begun = run.begin(level)
    affine = measure_loss(level, matrix, begun, measure)
    losses = {"start": measure_loss(level, np.eye(len(matrix)), None, measure), run.config.linear_kind: affine}
    if run.config.transform != "deformable":
        return begun, losses
    if run.config.iterations:
        found = way(levels, matrix, run)
        loss = measure_loss(level, matrix, found, measure)
        if loss < affine:
            return found, {**losses, "deformable": loss}
    return begun, {**losses, "deformable": affine}


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


def _deform(levels: list[Level], matrix: np.ndarray, run: Run) -> Array:
    """Displacement on the finest level's grid, in its voxels."""
    (coarse, finest), doubt = _ALGORITHMS[run.config.algorithm], 1.0
    fields = coarse.begin(run.begin(levels[0]), bent=run.bend() is not None)
    matching = run.config.metric in _LINEAR
    deadline = run.deadline(levels[-1].fixed.grid)
    for number in range(1, len(levels) + 1):
        began, level = time.perf_counter(), levels[number - 1]
        if tuple(fields[0].shape[1:-1]) != level.field_grid.shape:
            fields = tuple(ops.resize_displacement(field, shape=level.field_grid.shape) for field in fields)
        if began > deadline:
            continue
        backend.release_memory()
        if matching and number > 1:
            matched = match_histograms(level, matrix, coarse.to_displacement(fields))
            level, matching = matched, matched is not level
            if level.coarser is not None:
                levels[-1] = level  # what was found is judged on the coarser grid: the image as it was can go
        options = replace(_set_deformation(level, len(levels) - number, doubt, run.config), deadline=deadline)
        notify = run.notifier("deformable", number, len(levels), options.iterations)
        algorithm = finest if number == len(levels) else coarse
        fields, losses = deform(algorithm(level, matrix, options), fields, notify=notify)
        run.record("deformable", level, losses, began)
        if level.hints is not None and number < len(levels):
            # What hints cost is no stain.
            bare, found = replace(level, hints=None), algorithm.to_displacement
            losses = [measure_loss(bare, matrix, found(fields), options.similarity)]
        doubt = _doubt(losses[-1])
    return finest.to_displacement(fields)


def _deform_discretely(levels: list[Level], matrix: np.ndarray, run: Run) -> Array:
    """Displacement on the last level's grid, in its voxels."""
    began, level = time.perf_counter(), levels[-1]

    def notify(done: int, most: int, loss: float) -> None:
        run.notifier("deformable", 1, 1, most)(done, loss)

    displacement, losses = deform_discretely(level, matrix, run.begin(level), notify=notify)
    run.record("deformable", level, losses, began)
    return displacement


def _doubt(loss: float) -> float:
    """How much more the next level is smoothed, after the loss that one ended with.

    What the one level could not explain, stain or noise, the next one must not explain by bending.
    """
    ratio = loss / max(1 - loss, 1e-6)
    return min(max(1.0, (ratio / _DOUBTFUL) ** _DOUBT), _MOST_DOUBT)


def _compares_blocks(level: Level, metric: Metric) -> bool:
    """Whether what blocks of voxels add up to is enough: not where each channel has a mask of its own."""
    masks = [layer.mask for layer in (level.fixed, level.moving) if layer.mask is not None]
    shared = all(mask.shape[-1] == 1 for mask in masks)
    return level.coarser is not None and metric in ("auto", "lncc") and shared


def _set_deformation(level: Level, coarser: int, doubt: float, config: Config) -> DeformationOptions:
    """What the deformable stage may do at a level which is so many levels coarser than the finest."""
    grid, blocks = level.fixed.grid, _compares_blocks(level, config.metric)
    cost = math.prod(grid.shape) * (_HISTOGRAM if config.metric == "nmi" else _BLOCK if blocks else 1)
    affordable = max(_WORTHWHILE, int(config.work / cost))
    widest = _WIDEST * max(np.asarray(grid.shape) * grid.spacing) / level.spacing
    window = config.window if coarser else max(config.window, min(config.finest_window, widest))
    return DeformationOptions(
        min(config.iterations, affordable),
        compare_by(config.metric, level, window),
        config.update_smoothing * _SMOOTHER ** min(coarser, 2),
        config.field_smoothing * doubt,
        config.step,
        config.tolerance * (_PATIENT if coarser else 1.0),
        config.control_spacing,
        doubt,
        by_blocks=correlate_blocks(level, window) if blocks else None,
    )
