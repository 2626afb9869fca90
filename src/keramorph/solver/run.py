"""What the stages of a search share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from keramorph import ops
from keramorph._typing import Array
from keramorph.preparation import finest_spacing
from keramorph.solver.config import Config
from keramorph.solver.pyramid import Level
from keramorph.solver.result import LevelRecord, Progress
from keramorph.space import Grid
from keramorph.transforms import Transform

Listener = Callable[[Progress], None]
Stage = Literal["start", "affine", "predicted", "deformable"]

Predict = Callable[[np.ndarray], Transform]
"""From the matrix that aligns a pair, in millimetres and from fixed to moving points, to a displacement u that somebody
predicts for it: a point goes to `matrix @ (p + u(p))`."""

_OVERHEAD, _REST = 1.5, 1e-6
"""Seconds for imports and reading, and per voxel for inverse and files, as measured on two cores."""

_BASE, _OF_IMAGE, _OF_FINEST, _OF_FIELD = 240e6, 12, 8, 125
_MORE_OF_IMAGE, _MORE_OF_FIELD = 25, 50
"""Bytes of memory for programs, per voxel of the fixed image, per voxel of the finest level, and per vector of the
displacement in the end; and per voxel of the image or vector for each channel but the first; as measured with the
kernels, the report at the end included."""


@dataclass(frozen=True, eq=False)
class Initial:
    """Where a search starts from, in place of looking for a start: `matrix @ (p + u(p))`.

    Args:
        matrix: Homogeneous matrix in millimetres, fixed to moving points.
        displacement: u, `(1, *shape, ndim)` on a grid over the field of view of the fixed image, in its voxels; None
            for none. Where there is one, the matrix is left as it is.

    Example:
        >>> Initial(np.eye(3)).displacement is None
        True
    """

    matrix: np.ndarray
    displacement: Array | None = None


@dataclass
class Run:
    """What the stages share: the parameters, the listener, where to start, the plan, the clock and the history.

    `predicted` is a displacement in place of that of the start, once there is one that pays.
    """

    config: Config
    listener: Listener | None
    initial: Initial | None = None
    plan: str = ""
    began: float = field(default_factory=time.perf_counter)
    history: list[LevelRecord] = field(default_factory=list)
    predicted: Array | None = None

    def deadline(self, grid: Grid) -> float:
        """When the deformation must end, on the clock of `time.perf_counter()`, if it ends on a grid."""
        budget = self.config.time_budget
        return self.began + budget - estimate_rest(grid) if budget else math.inf

    def bend(self) -> Array | None:
        """The displacement to start from."""
        if self.predicted is not None:
            return self.predicted
        return None if self.initial is None else self.initial.displacement

    def begin(self, level: Level) -> Array:
        """The displacement to start from, on the grid that it has at a level and in its voxels."""
        bend = self.bend()
        return level.still() if bend is None else ops.resize_displacement(bend, shape=level.field_grid.shape)

    def begin_unpredicted(self, level: Level) -> Array:
        """The same as if nothing had been predicted."""
        return replace(self, predicted=None).begin(level)

    def notifier(self, stage: Stage, number: int, count: int, most: int) -> Callable[[int, float], None]:
        """Return what a stage calls in each iteration of its level `number` of `count`."""

        def notify(done: int, loss: float) -> None:
            if self.listener is not None:
                seconds = time.perf_counter() - self.began
                self.listener(Progress(stage, number, count, done, most, max(0.0, loss), seconds, self.plan))

        return notify

    def record(self, stage: Literal["affine", "deformable"], level: Level, losses: list[float], began: float) -> None:
        """Add a level that is done to the history."""
        shape, seconds = level.fixed.grid.shape, time.perf_counter() - began
        self.history.append(LevelRecord(stage, shape, level.spacing, tuple(losses), seconds))


def estimate_rest(grid: Grid) -> float:
    """Seconds that a registration takes besides the deformation, if that ends on a grid."""
    return _OVERHEAD + _REST * math.prod(grid.shape)


def describe_plan(image: Grid, finest: Level) -> str:
    """What a registration of an image is going to end on, and the memory that it needs, in words."""
    solved, field, more = finest.fixed.grid, finest.field_grid, finest.fixed.values.shape[-1] - 1
    need = _BASE + (_OF_IMAGE + more * _MORE_OF_IMAGE) * math.prod(image.shape)
    need += _OF_FINEST * math.prod(solved.shape) + (_OF_FIELD + more * _MORE_OF_FIELD) * math.prod(field.shape)
    coarser = "" if solved.shape == image.shape else f", coarser than the image's {_describe_grid(image)}"
    bent = "" if field.shape == solved.shape else f", bent by {_describe_shape(field)} vectors"
    return f"{_describe_grid(solved)}{coarser}{bent}; about {need / 1e9:.1f} GB of memory"


def _describe_grid(grid: Grid) -> str:
    spacing = finest_spacing(grid)
    return f"{_describe_shape(grid)} voxels of {spacing:.3g} mm"


def _describe_shape(grid: Grid) -> str:
    return " x ".join(str(n) for n in grid.shape)
