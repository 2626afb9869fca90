"""A model and pairs of files: Dice, landmark errors, folds, likeness and time of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keramorph.io import read_image
from keramorph.metrics import dice, folding_share, landmark_error
from keramorph.prediction import Predictor
from keramorph.space import Image
from keramorph.transforms import AffineTransform, CompositeTransform, Transform, to_voxel_displacement


@dataclass(frozen=True, eq=False)
class EvaluationPair:
    """Two images to register, and what is known of them.

    Args:
        fixed: File of the fixed image.
        moving: File of the moving image.
        fixed_labels: Label map of the fixed image, on any grid of the same space; None where there is none.
        moving_labels: Label map of the moving image, likewise.
        fixed_landmarks: Points `(points, ndim)` of the fixed image in millimetres (x, y, z), LPS; None likewise.
        moving_landmarks: The same points of the moving image.

    Example:
        >>> EvaluationPair("one.nii.gz", "two.nii.gz").fixed_labels is None
        True
    """

    fixed: str | Path
    moving: str | Path
    fixed_labels: str | Path | None = None
    moving_labels: str | Path | None = None
    fixed_landmarks: np.ndarray | None = None
    moving_landmarks: np.ndarray | None = None


@dataclass(frozen=True)
class PairScores:
    """How well one pair was registered; `_before` is where the middles of the images lie on each other.

    Args:
        fixed: The fixed image.
        moving: The moving image.
        dice: Dice overlap by label, on the grid of the fixed image; empty without labels.
        dice_before: The same before.
        tre: Mean distance of the landmarks in millimetres (target registration error); None without landmarks.
        tre_before: The same before.
        folds_percent: Share of the voxels that the network saw at which its displacement folds.
        correlation: Correlation of the intensities of the fixed and the moved image, on the grid of the fixed one.
        correlation_before: The same before.
        seconds: Time of the prediction, the preparation of both images included, reading not.

    Example:
        >>> PairScores("a", "b", {1: 0.8, 2: 0.6}, {}, None, None, 0.0, 0.9, 0.5, 1.0).mean_dice
        0.7
    """

    fixed: str
    moving: str
    dice: dict[int, float]
    dice_before: dict[int, float]
    tre: float | None
    tre_before: float | None
    folds_percent: float
    correlation: float
    correlation_before: float
    seconds: float

    @property
    def mean_dice(self) -> float | None:
        """Mean over the labels that occur; None without labels."""
        return _average(list(self.dice.values()))

    @property
    def mean_dice_before(self) -> float | None:
        """The same before."""
        return _average(list(self.dice_before.values()))


def evaluate_pairs(
    model: Any,
    pairs: Sequence[EvaluationPair],
    *,
    labels: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[PairScores]:
    """Return how well a network registers each of some pairs.

    As in training, the middles of the two images are laid on each other first. Labels are moved by nearest neighbour.

    Args:
        model: A Keras model or its file, as `keramorph.prediction.Predictor` takes it.
        pairs: The pairs.
        labels: Values of the label maps that count; None for all but 0.
        progress: Function of the number of pairs that are done, and of all.

    Raises:
        FileError: If a file is missing or cannot be read.
        InputError: If an image has no contrast.

    Example:
        >>> import tempfile
        >>> from keramorph.io import write_image
        >>> class Stay:
        ...     ndim, voxels = 2, 16
        ...
        ...     def predict(self, fixed, moving):
        ...         return np.zeros((*fixed.shape[:-1], 2), "float32")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_image(read_image(np.eye(16)), f"{folder}/one.nii.gz")
        ...     scores = evaluate_pairs(Stay(), [EvaluationPair(f"{folder}/one.nii.gz", f"{folder}/one.nii.gz")])
        >>> scores[0].folds_percent, round(scores[0].correlation, 3)
        (0.0, 1.0)
    """
    predictor = Predictor(model)
    scores = []
    for number, pair in enumerate(pairs):
        images = read_image(pair.fixed), read_image(pair.moving)
        if number == 0:  # the first call compiles, which is no part of the time that a pair takes
            predictor.predict(*images)
        scores.append(_evaluate(predictor, pair, images, labels))
        if progress is not None:
            progress(number + 1, len(pairs))
    return scores


def average_scores(scores: Sequence[PairScores]) -> dict[str, Any]:
    """Return the means over pairs, by the names of `PairScores`, `mean_dice` and `mean_dice_before` among them.

    Args:
        scores: One or more of them.

    Example:
        >>> one = PairScores("a", "b", {1: 0.8}, {1: 0.5}, None, None, 0.0, 0.9, 0.5, 1.0)
        >>> average_scores([one, one])["dice"]
        {1: 0.8}
    """
    plain = ["mean_dice", "mean_dice_before", "tre", "tre_before", "folds_percent"]
    plain += ["correlation", "correlation_before", "seconds"]
    means: dict[str, Any] = {name: _average([getattr(one, name) for one in scores]) for name in plain}
    for name in ("dice", "dice_before"):
        found = sorted({label for one in scores for label in getattr(one, name)})
        means[name] = {label: _average([getattr(one, name).get(label) for one in scores]) for label in found}
    return means


def _evaluate(
    predictor: Predictor, pair: EvaluationPair, images: tuple[Image, Image], labels: Sequence[int] | None
) -> PairScores:
    fixed, moving = images
    matrix = np.eye(fixed.grid.ndim + 1)
    matrix[:-1, -1] = moving.grid.center - fixed.grid.center
    start = time.perf_counter()
    found = predictor.predict(fixed, moving, matrix=matrix)
    seconds = time.perf_counter() - start
    before = AffineTransform(matrix)
    after = CompositeTransform([found, before])
    field = to_voxel_displacement(found.displacement, found.grid)
    return PairScores(
        str(pair.fixed),
        str(pair.moving),
        dice=_overlap(pair, fixed, after, labels),
        dice_before=_overlap(pair, fixed, before, labels),
        tre=_miss(pair, after),
        tre_before=_miss(pair, before),
        folds_percent=100 * float(folding_share(field[None])[0]),
        correlation=_correlate(fixed, moving, after),
        correlation_before=_correlate(fixed, moving, before),
        seconds=seconds,
    )


def _overlap(
    pair: EvaluationPair, fixed: Image, transform: Transform, labels: Sequence[int] | None
) -> dict[int, float]:
    if pair.fixed_labels is None or pair.moving_labels is None:
        return {}
    still = AffineTransform(np.eye(fixed.grid.ndim + 1))
    maps = [
        np.rint(onto.resample(read_image(path), fixed.grid, order=0).array).astype(np.int64)
        for path, onto in ((pair.fixed_labels, still), (pair.moving_labels, transform))
    ]
    return dice(*maps, labels=labels)


def _miss(pair: EvaluationPair, transform: Transform) -> float | None:
    if pair.fixed_landmarks is None or pair.moving_landmarks is None:
        return None
    return float(landmark_error(pair.moving_landmarks, transform.apply_points(pair.fixed_landmarks)).mean())


def _correlate(fixed: Image, moving: Image, transform: Transform) -> float:
    """Correlation of the means of the channels, where the moved image is there and both are finite."""
    moved = transform.resample(Image(moving.array.astype(np.float32), moving.grid), fixed.grid, fill_value=np.nan)
    values = [image.array.mean(axis=-1, dtype=np.float64).ravel() for image in (fixed, moved)]
    there = np.isfinite(values[0]) & np.isfinite(values[1])
    values = [one[there] - one[there].mean() for one in values]
    size = np.sqrt((values[0] ** 2).sum() * (values[1] ** 2).sum())
    return float((values[0] * values[1]).sum() / size) if size > 0 else float("nan")


def _average(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are there; None where none is."""
    there = [value for value in values if value is not None and not np.isnan(value)]
    return float(np.mean(there)) if there else None
