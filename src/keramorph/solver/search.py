"""The whole search: start, affine, deformation, and what came of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from keramorph import backend, ops
from keramorph._typing import Array
from keramorph.solver.affine import AffineOptions, fit_affine
from keramorph.solver.config import Config
from keramorph.solver.greedy import GreedyOptions, deform
from keramorph.solver.pyramid import Layer, Level, build_pyramid, coarsen_grid, list_spacings
from keramorph.solver.result import LevelRecord, Progress, Solution
from keramorph.solver.start import list_starts
from keramorph.solver.trust import LEAST_CONTRAST, measure_contrast, measure_loss, measure_overlap
from keramorph.solver.unfold import unfold

Listener = Callable[[Progress], None]
Stage = Literal["start", "affine", "deformable"]

_AFFINE_SMALLEST = 24
_SMALLEST = 14
"""Fewest voxels along the longest axis of the coarsest level, of the affine stage and of both."""

_AFFINE_LARGEST = 200_000
"""Voxels beyond which a finer level makes an affine fit slower and no better."""

_WORTHWHILE = 10
"""Iterations that even the largest level gets."""

_CLEARLY = 1e-3
"""Loss by which a less trusted start must beat a more trusted one."""


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
    matrix = _align(affine_levels, run)
    contrast = measure_contrast(affine_levels[0], matrix, window=config.window)
    if contrast < LEAST_CONTRAST:
        # What was found is no better than chance: a fit or a deformation on top of it would only do harm.
        matrix = _keep_start(affine_levels[-1], config)
    displacement = _still(levels[-1])
    losses = {
        "start": _measure(levels[-1], np.eye(fixed.grid.ndim + 1), None, config),
        "affine": _measure(levels[-1], matrix, None, config),
    }
    losses["deformable"] = losses["affine"]
    if config.iterations and contrast >= LEAST_CONTRAST:
        found = unfold(_deform(levels, matrix, run), levels[-1].fixed.grid)
        loss = _measure(levels[-1], matrix, found, config)
        if loss < losses["affine"]:
            displacement, losses["deformable"] = found, loss
    overlap = measure_overlap(affine_levels[0], matrix)
    return Solution(matrix, displacement, levels[-1].fixed.grid, losses, overlap, contrast, tuple(run.history))


def _measure(level: Level, matrix: np.ndarray, displacement: Array | None, config: Config) -> float:
    return measure_loss(level, matrix, displacement, window=config.window)


def _still(level: Level) -> Array:
    """Displacement of zero on the fixed grid of a level."""
    shape = level.fixed.grid.shape
    xp = backend.of(level.fixed.values).xp
    return xp.zeros((1, *shape, len(shape)), dtype="float32", like=level.fixed.values)


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


def _align(levels: list[Level], run: _Run) -> np.ndarray:
    """Affine transform in millimetres: the best of several starts, refined level by level."""
    matrix = np.eye(levels[0].fixed.grid.ndim + 1)
    if run.config.affine_iterations == 0:
        return matrix
    for number, level in enumerate(levels, start=1):
        began = time.perf_counter()
        if number == 1:
            matrix, losses = _choose_start(level, len(levels), run)
        else:
            matrix, losses = _fit(level, matrix, run, "affine", number, len(levels))
        run.record("affine", level, losses, began)
    # Each level fits what it sees: at the last one the way there must still have paid.
    headers = np.eye(len(matrix))
    found, start = (_measure(levels[-1], m, None, run.config) for m in (matrix, headers))
    return matrix if found <= start else headers


def _keep_start(level: Level, config: Config) -> np.ndarray:
    """The better one of the starts that ask nothing of the intensities: headers or centres."""
    starts = list_starts(level.fixed, level.moving)
    plain = [starts[name] for name in (("headers", "centres") if config.affine_iterations else ("headers",))]
    losses = [_measure(level, matrix, None, config) for matrix in plain]
    return plain[int(np.argmin(losses))]


def _fit(
    level: Level, matrix: np.ndarray, run: _Run, stage: Stage, number: int, count: int
) -> tuple[np.ndarray, list[float]]:
    config = run.config
    options = AffineOptions(config.affine_iterations, config.window + 2, config.strain_weight)
    return fit_affine(level, matrix, options, notify=run.notifier(stage, number, count, options.iterations))


def _choose_start(level: Level, count: int, run: _Run) -> tuple[np.ndarray, list[float]]:
    """The start from which the fit at the coarsest level gets furthest."""
    best: tuple[np.ndarray, list[float]] | None = None
    for matrix in list_starts(level.fixed, level.moving).values():
        found = _fit(level, matrix, run, "start", 1, count)
        if best is None or found[1][-1] < best[1][-1] - _CLEARLY:
            best = found
    assert best is not None
    return best


def _deform(levels: list[Level], matrix: np.ndarray, run: _Run) -> Array:
    """Displacement on the finest level's grid, in its voxels."""
    displacement: Array | None = None
    for number, level in enumerate(levels, start=1):
        began = time.perf_counter()
        if displacement is None:
            displacement = _still(level)
        else:
            displacement = ops.resize_displacement(displacement, shape=level.fixed.grid.shape)
        options = _set_deformation(level, run.config)
        notify = run.notifier("deformable", number, len(levels), options.iterations)
        displacement, losses = deform(level, matrix, displacement, options, notify=notify)
        run.record("deformable", level, losses, began)
    return displacement


def _set_deformation(level: Level, config: Config) -> GreedyOptions:
    """What the deformable stage may do at a level."""
    affordable = max(_WORTHWHILE, config.work // math.prod(level.fixed.grid.shape))
    return GreedyOptions(
        min(config.iterations, affordable),
        config.window,
        config.update_smoothing,
        config.field_smoothing,
        config.step,
        config.tolerance,
    )
