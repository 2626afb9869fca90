"""The whole search: start, affine, deformation, and what came of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from keramorph import ops
from keramorph._typing import Array
from keramorph.solver.align import align, correlate, guide_by_correlation, guide_by_information, keep_start, refine
from keramorph.solver.bspline import BSpline
from keramorph.solver.config import Algorithm, Config
from keramorph.solver.deformation import Deformation, DeformationOptions, deform
from keramorph.solver.discrete import deform_discretely
from keramorph.solver.greedy import Greedy
from keramorph.solver.motion import project
from keramorph.solver.pyramid import Layer, Level, build_pyramid, coarsen_grid, list_spacings
from keramorph.solver.result import Solution
from keramorph.solver.run import Initial, Listener, Run, estimate_rest
from keramorph.solver.similarity import Measure, SelfSimilarity
from keramorph.solver.symmetric import Symmetric
from keramorph.solver.trust import LEAST_CONTRAST, measure_contrast, measure_loss, measure_overlap
from keramorph.solver.unfold import unfold
from keramorph.solver.velocity import Velocity

_ALGORITHMS: dict[Algorithm, tuple[type[Deformation], type[Deformation]]] = {
    "greedy": (Greedy, Greedy),
    "velocity": (Velocity, Velocity),
    "symmetric": (Symmetric, Symmetric),
    "bspline": (BSpline, BSpline),
    "mixed": (BSpline, Greedy),
}
"""What is done at the coarser levels, and at the finest."""

_AFFINE_SMALLEST = 24
_SMALLEST = 14
"""Fewest voxels along the longest axis of the coarsest level, of the affine stage and of both."""

_AFFINE_LARGEST = 200_000
"""Voxels beyond which a finer level makes an affine fit slower and no better."""

_DISCRETE_LARGEST = 1_000_000
"""Voxels of a level up to which every shift can be tried at once."""

_WORTHWHILE = 10
"""Iterations that even the largest level gets."""

_WIDEST = 0.25
"""Share of the longest edge of the fixed image that a window spans at most, where narrower ones will do."""

_REST_SHARE = 0.6
"""Share of a time budget that all but the deformation may take before the grid is made coarser."""

_SMOOTHER, _PATIENT = 1.2, 0.3
"""Smoothing of an update in that of the next finer level, and tolerance of coarse levels in that of the finest: what
they leave undone, that one has to make up for at many times the cost."""

_DOUBT = 3.0
_MOST_DOUBT = 4.0
"""Smoothing of a level, in that of the parameters, where the one before left as much unexplained as it explained; and
the most that it can be."""


def solve(
    fixed: Layer,
    moving: Layer,
    config: Config,
    *,
    initial: Initial | None = None,
    listener: Listener | None = None,
) -> Solution:
    """Return the transform that lays the moving image on the fixed one.

    Args:
        fixed: Fixed image `(1, *spatial, 1)` in [0, 1], float32 of any engine.
        moving: Moving image, of the same engine.
        config: Parameters.
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
    if initial is None and not config.search:
        initial = Initial(np.eye(fixed.grid.ndim + 1))
    if initial is not None and config.transform != "deformable":
        initial = Initial(project(initial.matrix, config.linear_kind, fixed.grid.center))
    run = Run(config, listener, initial)
    levels = _build_levels(fixed, moving, config)
    affine_levels = _pick_affine_levels(levels, config)
    guide = guide_by_correlation(config)
    matrix = align(affine_levels, run, guide)
    contrast = measure_contrast(affine_levels[0], matrix, correlate(affine_levels[0], config.window))
    way: Callable = _deform
    measure: Measure = guide.at(levels[-1])
    if contrast < LEAST_CONTRAST:
        # What was found is no better than chance. Mutual information sees likeness where the correlation sees none, but
        # not enough of it to search far, nor to deform by; self-similarities are too sharp for all but a short search.
        guide, way, measure = guide_by_information(), _deform_discretely, SelfSimilarity()
        start = keep_start(affine_levels[-1], run)
        matrix = refine(affine_levels, start, run, guide, instead=[start, np.eye(len(start))])
        levels = levels[: _count_small(levels)]
    displacement, losses = _deform_if_it_pays(levels, matrix, run, measure, way)
    overlap = measure_overlap(affine_levels[0], matrix)
    return Solution(matrix, displacement, levels[-1].fixed.grid, losses, overlap, contrast, tuple(run.history))


def _deform_if_it_pays(
    levels: list[Level], matrix: np.ndarray, run: Run, measure: Measure, way: Callable
) -> tuple[Array, dict[str, float]]:
    """Displacement on the last level, that of the start if no better one is found; and the losses on the way."""
    level = levels[-1]
    begun = run.begin(level)
    affine = measure_loss(level, matrix, begun, measure)
    losses = {"start": measure_loss(level, np.eye(len(matrix)), None, measure), run.config.linear_kind: affine}
    if run.config.transform != "deformable":
        return begun, losses
    if run.config.iterations:
        found = unfold(way(levels, matrix, run), level.fixed.grid, matrix)
        loss = measure_loss(level, matrix, found, measure)
        if loss < affine:
            return found, {**losses, "deformable": loss}
    return begun, {**losses, "deformable": affine}


def _build_levels(fixed: Layer, moving: Layer, config: Config) -> list[Level]:
    """Both images at each spacing, coarse to fine, no finer than the largest number of voxels allows."""
    spacings = list_spacings(fixed.grid, smallest=_SMALLEST, most=config.levels)
    while len(spacings) > 1 and math.prod(coarsen_grid(fixed.grid, spacings[-1]).shape) > config.voxels:
        spacings.pop()
    while (
        len(spacings) > 1
        and config.time_budget
        and _REST_SHARE * config.time_budget < estimate_rest(coarsen_grid(fixed.grid, spacings[-1]))
    ):
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


def _deform(levels: list[Level], matrix: np.ndarray, run: Run) -> Array:
    """Displacement on the finest level's grid, in its voxels."""
    (coarse, finest), doubt = _ALGORITHMS[run.config.algorithm], 1.0
    fields = coarse.begin(run.begin(levels[0]), bent=run.bend() is not None)
    deadline = run.deadline(levels[-1].fixed.grid)
    for number, level in enumerate(levels, start=1):
        began = time.perf_counter()
        if number > 1:
            fields = tuple(ops.resize_displacement(field, shape=level.fixed.grid.shape) for field in fields)
        if began > deadline:
            continue
        options = replace(_set_deformation(level, len(levels) - number, doubt, run.config), deadline=deadline)
        notify = run.notifier("deformable", number, len(levels), options.iterations)
        algorithm = finest if level is levels[-1] else coarse
        fields, losses = deform(algorithm(level, matrix, options), fields, notify=notify)
        run.record("deformable", level, losses, began)
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
    return min(max(1.0, _DOUBT * loss / max(1 - loss, 1e-6)), _MOST_DOUBT)


def _set_deformation(level: Level, coarser: int, doubt: float, config: Config) -> DeformationOptions:
    """What the deformable stage may do at a level which is so many levels coarser than the finest."""
    grid = level.fixed.grid
    affordable = max(_WORTHWHILE, config.work // math.prod(grid.shape))
    widest = _WIDEST * max(np.asarray(grid.shape) * grid.spacing) / level.spacing
    window = config.window if coarser else max(config.window, min(config.finest_window, widest))
    return DeformationOptions(
        min(config.iterations, affordable),
        correlate(level, window),
        config.update_smoothing * _SMOOTHER ** min(coarser, 2),
        config.field_smoothing * doubt,
        config.step,
        config.tolerance * (_PATIENT if coarser else 1.0),
        config.control_spacing,
        doubt,
    )
