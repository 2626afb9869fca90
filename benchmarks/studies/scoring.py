"""How well a transform from fixed to moving points lays a pair: labels, landmarks, dense displacements and folds."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

_POINTS = 20000
"""At most so many of a dense displacement's pixels are looked at, drawn at random but always the same."""


def score(folder: Path, pair: dict[str, Any], transform: sitk.Transform) -> dict[str, float]:
    """All that a pair of a `case.json` allows to say about a transform.

    Returns:
        `folds_percent`, and of `dice`, `dice_2`, `tre_mm`, `tre_p90_mm`, `tre_pixels`, `tre_p90_pixels` those that the
        pair has a truth for.
    """
    fixed = sitk.ReadImage(str(folder / pair["fixed"]))
    scores = {"folds_percent": 100 * measure_folds(transform, fixed)}
    for suffix in ("", "_2"):
        if f"fixed_labels{suffix}" in pair:
            labels = [_read_labels(folder / pair[f"{side}_labels{suffix}"]) for side in ("fixed", "moving")]
            moved = sitk.Resample(labels[1], labels[0], transform, sitk.sitkNearestNeighbor, 0)
            found = measure_dice(labels[0], moved, pair.get(f"score_labels{suffix}"))
            scores |= {} if found is None else {f"dice{suffix}": found}
    if "fixed_landmarks" in pair:
        points = [_read_points(folder / pair[f"{side}_landmarks"], "{}_mm") for side in ("fixed", "moving")]
        scores |= _sum_up(np.linalg.norm(_move(transform, points[0]) - points[1], axis=1), "mm")
    pixels = _read_pixels(folder, pair)
    if pixels is not None:
        start, end = pixels
        moving = sitk.ReadImage(str(folder / pair["moving"]))
        points = [fixed.TransformContinuousIndexToPhysicalPoint(place) for place in start.tolist()]
        moved = [moving.TransformPhysicalPointToContinuousIndex(point) for point in _move(transform, points).tolist()]
        scores |= _sum_up(np.linalg.norm(np.asarray(moved) - end, axis=1), "pixels")
    return scores


def measure_folds(transform: sitk.Transform, grid: sitk.Image) -> float:
    """Share of the voxels of a grid, but for its border, at which the transform turns space inside out."""
    to_field = sitk.TransformToDisplacementFieldFilter()
    to_field.SetReferenceImage(grid)
    to_field.SetOutputPixelType(sitk.sitkVectorFloat64)
    determinant = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(to_field.Execute(transform)))
    inside = tuple(slice(1, -1) if size > 2 else slice(None) for size in determinant.shape)
    return float(np.mean(determinant[inside] <= 0))


def measure_dice(fixed: sitk.Image, moved: sitk.Image, wanted: list[int] | None) -> float | None:
    """Mean over the labels that either image has; without a list of labels, that of all that is above 0."""
    values = [sitk.GetArrayFromImage(image) for image in (fixed, moved)]
    masks = [[value > 0 for value in values]] if wanted is None else [[value == n for value in values] for n in wanted]
    sizes = [(np.sum(one & other), np.sum(one) + np.sum(other)) for one, other in masks]
    found = [2 * float(common) / float(total) for common, total in sizes if total]
    return float(np.mean(found)) if found else None


def _read_labels(path: Path) -> sitk.Image:
    """A label image; of a stack of masks the first."""
    image = sitk.ReadImage(str(path))
    return image[..., 0] if image.GetDimension() == 4 else image


def _read_pixels(folder: Path, pair: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Pixels of the fixed image, column before row, and where they are in the moving one."""
    if "landmarks" in pair:
        table = folder / pair["landmarks"]
        return _read_points(table, "fixed_{}"), _read_points(table, "moving_{}")
    if "flow" not in pair:
        return None
    flow = np.load(folder / pair["flow"])
    seen = np.argwhere(flow["valid"] & flow["visible"])
    seen = seen[np.random.default_rng(0).choice(len(seen), size=min(_POINTS, len(seen)), replace=False)]
    start = seen[:, ::-1].astype(float)
    return start, start + np.stack([flow[name][tuple(seen.T)] for name in ("dx", "dy")], axis=1)


def _read_points(path: Path, name: str) -> np.ndarray:
    """Points of a table, whose columns are named after the axes x, y and z, where there is one."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    axes = [name.format(axis) for axis in "xyz" if name.format(axis) in rows[0]]
    return np.array([[float(row[axis]) for axis in axes] for row in rows])


def _move(transform: sitk.Transform, points: Any) -> np.ndarray:
    return np.array([transform.TransformPoint([float(number) for number in point]) for point in points])


def _sum_up(errors: np.ndarray, unit: str) -> dict[str, float]:
    return {f"tre_{unit}": float(errors.mean()), f"tre_p90_{unit}": float(np.percentile(errors, 90))}
