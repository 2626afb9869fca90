"""What a registration says while it runs and when it ends: data, not exceptions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from keramorph._typing import Array
from keramorph.space import Grid


@dataclass(frozen=True)
class Progress:
    """Where a registration stands.

    Args:
        stage: What is being done: `"start"`, `"affine"`, `"predicted"`, where a model is asked, or `"deformable"`.
        level: Number of the level in this stage, the coarsest is 1.
        levels: How many levels the stage has.
        iteration: Iterations done at this level.
        iterations: Most iterations that this level may take.
        loss: 1 minus the similarity of the level, between 0 and 1; lower is better.
        seconds: Time since the registration began.
        plan: Grid on which the deformation ends, and the memory that all of it needs, in words.

    Example:
        >>> Progress("affine", 1, 3, 0, 40, 0.5, 0.1).stage
        'affine'
    """

    stage: Literal["start", "affine", "predicted", "deformable"]
    level: int
    levels: int
    iteration: int
    iterations: int
    loss: float
    seconds: float
    plan: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a registration ended.

    Args:
        status: `"done"`, or `"untrusted"` where the images may not be aligned.
        reason: What speaks against it, in a sentence; empty where nothing does.

    Example:
        >>> Outcome("done").trusted
        True
    """

    status: Literal["done", "untrusted"]
    reason: str = ""

    @property
    def trusted(self) -> bool:
        """Whether the registration ended well."""
        return self.status == "done"


@dataclass(frozen=True)
class MetricChoice:
    """What the images were compared by.

    Args:
        name: One of the metrics of `Config`, never `"auto"`.
        reason: Why, in a few words.

    Example:
        >>> MetricChoice("lncc", "the images agree in contrast: 0.83").name
        'lncc'
    """

    name: str
    reason: str


@dataclass(frozen=True)
class StartChoice:
    """What the deformation began from, where a model predicted a start for it.

    Args:
        name: `"predicted"`, or `"affine"` where the prediction did not pay.
        reason: Why, in a few words.
        seconds: Time that the prediction took.

    Example:
        >>> StartChoice("predicted", "it lowers the loss at 4 mm from 0.61 to 0.44", 0.3).name
        'predicted'
    """

    name: Literal["predicted", "affine"]
    reason: str
    seconds: float


@dataclass(frozen=True)
class LevelRecord:
    """What one level of one stage did.

    Args:
        stage: `"affine"` or `"deformable"`.
        shape: Voxels of the level's fixed grid, its axes laid along z, y and x.
        spacing: Spacing of the level in millimetres.
        losses: Loss before each iteration.
        seconds: Time that the level took.

    Example:
        >>> LevelRecord("affine", (8, 8), 4.0, (0.9, 0.5), 0.1).losses[-1]
        0.5
    """

    stage: Literal["affine", "deformable"]
    shape: tuple[int, ...]
    spacing: float
    losses: tuple[float, ...]
    seconds: float


@dataclass(frozen=True, eq=False)
class Solution:
    """A transform as the solver finds it, in the arrays of its engine.

    A point p of the fixed image, in millimetres, goes to `matrix @ (p + u(p))`.

    Args:
        matrix: Homogeneous matrix `(ndim + 1, ndim + 1)` in millimetres.
        displacement: u, `(1, *grid.shape, ndim)` in voxels of `grid`.
        grid: Grid of the displacement: the fixed image's, or a coarser one over the same field of view.
        losses: Loss of the start, of the linear stage's end under the name of its kind, of a predicted displacement
            where the deformation began from that, and of the deformable stage's end where there is one, by the metric
            at the finest level.
        overlap: Share of the fixed image that lies inside the moving image.
        contrast: How much more alike the images are, where the local correlation put them, than when they are shifted
            apart, from about 0 (nothing in common) to 1.
        history: One record per level.
        metric: What the images were compared by.
        start: What the deformation began from; None where nothing was predicted.

    Example:
        >>> choice = MetricChoice("lncc", "as asked for")
        >>> Solution(np.eye(3), np.zeros((1, 4, 4, 2)), Grid.from_spacing((4, 4)), {}, 1.0, 0.2, (), choice).overlap
        1.0
    """

    matrix: np.ndarray
    displacement: Array
    grid: Grid
    losses: dict[str, float]
    overlap: float
    contrast: float
    history: tuple[LevelRecord, ...]
    metric: MetricChoice
    start: StartChoice | None = None
