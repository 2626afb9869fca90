"""The deformable stage: from the linear part of each pair to its displacement, level by level."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keramorph import backend, ops
from keramorph._typing import Array
from keramorph.solver.align import compare_by, correlate_blocks
from keramorph.solver.bspline import BSpline
from keramorph.solver.config import Algorithm, Config, Metric
from keramorph.solver.deformation import Deformation, DeformationOptions, Member, deform
from keramorph.solver.discrete import deform_discretely
from keramorph.solver.greedy import Greedy
from keramorph.solver.histogram import match_histograms
from keramorph.solver.pyramid import Level
from keramorph.solver.result import MetricChoice
from keramorph.solver.run import Run
from keramorph.solver.stack import join, take
from keramorph.solver.symmetric import Symmetric
from keramorph.solver.trust import measure_loss
from keramorph.solver.velocity import Velocity

_ALGORITHMS: dict[Algorithm, tuple[type[Deformation], type[Deformation]]] = {
    "greedy": (Greedy, Greedy),
    "velocity": (Velocity, Velocity),
    "symmetric": (Symmetric, Symmetric),
    "bspline": (BSpline, BSpline),
    "mixed": (BSpline, Greedy),
}
"""What is done at the coarser levels, and at the finest."""

_LINEAR = ("auto", "lncc", "ncc")
"""Metrics that take one image for a linear function of the other."""

_HISTOGRAM = 8
"""Voxels that take no longer than one which is counted in a histogram."""

_BLOCK = 0.5
"""Voxels of the same time where blocks of them have one vector, and one that is compared by the others' sums."""

_WORTHWHILE = 10
"""Iterations that even the largest level gets."""

_WIDEST = 0.25
"""Share of the longest edge of the fixed image that a window spans at most, where narrower ones will do."""

_SMOOTHER, _PATIENT = 1.4, 0.15
"""Smoothing of an update in that of the next finer level, and tolerance of coarse levels in that of the finest: what
they leave undone, that one has to make up for at many times the cost."""

_DOUBTFUL, _DOUBT, _MOST_DOUBT = 0.4, 3, 4.0
"""Ratio of what a level left unexplained to what it explained from which the next one is smoothed more; by which power
of the ratio in that one; and how many times as much at most."""

_LARGEST = 20_000_000
"""Voxels of a stack's finest level beyond which pairs form another one: so large, nothing is gained by more of them."""


@dataclass(frozen=True, eq=False)
class Case:
    """A pair whose linear part is known: its levels, the matrix in millimetres, and what the images are compared by."""

    levels: list[Level]
    matrix: np.ndarray
    run: Run
    choice: MetricChoice


def bend(cases: Sequence[Case]) -> list[Array]:
    """Return the displacement of each pair, `(1, *spatial, ndim)` on the grid of its last level and in its voxels.

    Pairs whose arrays have the same shapes are deformed together, as if each were alone: on a GPU small ones take no
    longer together than one by itself. All have the same parameters.
    """
    found: dict[int, Array] = {}
    for places in list_stacks(cases):
        stack = [cases[place] for place in places]
        discretely = stack[0].choice.name == "mind"
        displacements = [_deform_discretely(case) for case in stack] if discretely else _deform(stack)
        found |= dict(zip(places, displacements, strict=True))
    return [found[place] for place in range(len(cases))]


def list_stacks(cases: Sequence[Case]) -> list[list[int]]:
    """Return which pairs are deformed together, by their places in the list."""
    alike: dict[Hashable, list[int]] = {}
    for place, case in enumerate(cases):
        alike.setdefault(_describe(case) or place, []).append(place)
    stacks = []
    for places in alike.values():
        most = max(1, _LARGEST // math.prod(cases[places[0]].levels[-1].fixed.grid.shape))
        stacks += [places[first : first + most] for first in range(0, len(places), most)]
    return stacks


def _describe(case: Case) -> Hashable:
    """What must be the same of pairs that are deformed together; None where a pair must be alone."""
    config, levels = case.run.config, case.levels
    layers = [layer for level in levels for layer in (level.fixed, level.moving)]
    masks = [None if layer.mask is None else tuple(layer.mask.shape) for layer in layers]
    # Hints are each pair's own. So is what a pair with a mask for each channel amounts to. Blocks are for large images.
    alone = case.choice.name == "mind" or any(level.hints or level.coarser for level in levels)
    if alone or any(mask is not None and mask[-1] > 1 for mask in masks):
        return None
    options = [_set_deformation(level, len(levels) - k, 1.0, config) for k, level in enumerate(levels, start=1)]
    spacings = [f"{h:.6g}" for level in levels for h in (level.spacing, *level.fixed.grid.spacing.tolist())]
    shapes = [tuple(layer.values.shape) for layer in layers]
    return case.choice.name, case.run.bend() is not None, *options, *spacings, *shapes, *masks


@dataclass(eq=False)
class _Course:
    """A pair on its way through the levels: how much the next one is smoothed, and whether its histogram is matched."""

    case: Case
    matching: bool
    doubt: float = 1.0

    def enter(self, number: int, displacement: Array | None) -> Member:
        """The pair at a level, the coarsest of which is number 1, after the displacement that was found before it."""
        (levels, matrix, run), level = (self.case.levels, self.case.matrix, self.case.run), self.case.levels[number - 1]
        if self.matching and displacement is not None:
            matched = match_histograms(level, matrix, displacement)
            level, self.matching = matched, matched is not level
            if level.coarser is not None:
                levels[-1] = level  # what was found is judged on the coarser grid: the image as it was can go
        options = _set_deformation(level, len(levels) - number, self.doubt, run.config)
        return Member(level, matrix, replace(options, deadline=run.deadline(levels[-1].fixed.grid)))

    def leave(self, member: Member, losses: list[float], displacement: Array | None, began: float) -> None:
        """What a level found goes into the history, and says how far the next one is trusted."""
        level, loss = member.level, losses[-1]
        self.case.run.record("deformable", level, losses, began)
        if displacement is not None:
            # What hints cost is no stain.
            loss = measure_loss(replace(level, hints=None), member.matrix, displacement, member.options.similarity)
        self.doubt = _doubt(loss)


def _deform(cases: Sequence[Case]) -> list[Array]:
    """What small steps find of a stack of pairs."""
    run, levels = cases[0].run, cases[0].levels
    coarse, finest = _ALGORITHMS[run.config.algorithm]
    courses = [_Course(case, run.config.metric in _LINEAR) for case in cases]
    fields = coarse.begin(join([case.run.begin(case.levels[0]) for case in cases]), bent=run.bend() is not None)
    for number, level in enumerate(levels, start=1):
        began = time.perf_counter()
        if tuple(fields[0].shape[1:-1]) != level.field_grid.shape:
            fields = tuple(ops.resize_displacement(field, shape=level.field_grid.shape) for field in fields)
        if began > run.deadline(levels[-1].fixed.grid):
            continue
        backend.release_memory()
        matching = number > 1 and any(course.matching for course in courses)
        shown = _split(coarse.to_displacement(fields)) if matching else [None] * len(courses)
        members = [course.enter(number, displacement) for course, displacement in zip(courses, shown, strict=True)]
        algorithm = finest if number == len(levels) else coarse
        fields, losses = deform(algorithm(members), fields, notify=_notifier(members, courses, number))
        hinted = level.hints is not None and number < len(levels)
        shown = _split(algorithm.to_displacement(fields)) if hinted else [None] * len(courses)
        for course, member, found, displacement in zip(courses, members, losses, shown, strict=True):
            course.leave(member, found, displacement, began)
    return _split(finest.to_displacement(fields))


def _notifier(members: list[Member], courses: list[_Course], number: int) -> Callable[[int, int, float], None]:
    """Return what a level calls in each iteration of each pair."""
    most, count = members[0].options.iterations, len(courses[0].case.levels)
    each = [course.case.run.notifier("deformable", number, count, most) for course in courses]
    return lambda pair, done, loss: each[pair](done, loss)


def _split(array: Array) -> list[Any]:
    """The entries of an array, each as an array of one."""
    return [take(array, [place]) for place in range(array.shape[0])]


def _deform_discretely(case: Case) -> Array:
    """What a search of self-similarities finds of a pair."""
    began, level, run = time.perf_counter(), case.levels[-1], case.run

    def notify(done: int, most: int, loss: float) -> None:
        run.notifier("deformable", 1, 1, most)(done, loss)

    displacement, losses = deform_discretely(level, case.matrix, run.begin(level), notify=notify)
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
