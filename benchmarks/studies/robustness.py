"""How often bodies meet that are turned by up to 180 degrees and shifted by up to 100 mm; whether failures are told."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from benchmarks.studies.cases import Case, make_pair
from benchmarks.studies.running import Report, run, write_command
from benchmarks.studies.template import write_template

ANGLES = (0, 30, 60, 90, 120, 150, 180)
_FURTHEST = 100.0
_SUCCESS = 5.0
"""Millimetres of shift; and those of mean error in the brain, of a deformation of up to 12 mm, at which they met."""


def measure(python: Path, threads: int, repeats: int, report: Report) -> Iterator[dict[str, Any]]:
    """Yield one row per start: the angle, the error and whether the outcome was trusted."""
    with tempfile.TemporaryDirectory(prefix="keramorph-robustness-") as name:
        folder = Path(name)
        write_template(python, folder, threads)
        pair = make_pair(Case("2 mm", 2), folder, folder)
        for place, angle in enumerate(ANGLES):
            for repeat in range(repeats):
                report(place * repeats + repeat, len(ANGLES) * repeats, f"{angle} degrees")
                yield {"degrees": angle, **_measure_one(pair, angle, repeat, threads)}


def _measure_one(pair: tuple[Path, Path], angle: int, seed: int, threads: int) -> dict[str, Any]:
    fixed, folder = pair[0], pair[0].parent
    image = sitk.ReadImage(str(pair[1]))
    turn = _draw_turn(image, angle, np.random.default_rng(1000 * angle + seed))
    sitk.WriteImage(turn_header(_reorient(image, seed), turn), str(folder / "turned.nii.gz"))
    finished = run(write_command(fixed, folder / "turned.nii.gz", folder / "out"), threads)
    if finished.code not in (0, 1):
        return {"exit": finished.code, "failed": finished.explain()}
    metrics = json.loads((folder / "out" / "summary.json").read_text())["metrics"]
    error = _measure_error(folder, turn)
    return {
        "exit": finished.code,
        "error_mm": error,
        "met": error < _SUCCESS,
        "seconds": metrics["seconds_total"],
    }


def _draw_turn(image: sitk.Image, angle: int, rng: np.random.Generator) -> sitk.VersorRigid3DTransform:
    """A turn by an angle about a random axis through the middle, and a shift of up to 100 mm."""
    axis, shift = rng.normal(size=3), rng.normal(size=3)
    turn = sitk.VersorRigid3DTransform()
    turn.SetCenter(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))
    turn.SetRotation((axis / np.linalg.norm(axis)).tolist(), np.deg2rad(angle))
    turn.SetTranslation((_FURTHEST * rng.uniform() * shift / np.linalg.norm(shift)).tolist())
    return turn


def turn_header(image: sitk.Image, turn: sitk.VersorRigid3DTransform) -> sitk.Image:
    """The same voxels, in a header that lays them where the turn takes them."""
    turned = sitk.Image(image)
    matrix = np.asarray(turn.GetMatrix()).reshape(3, 3)
    turned.SetDirection((matrix @ np.asarray(image.GetDirection()).reshape(3, 3)).ravel().tolist())
    turned.SetOrigin(turn.TransformPoint(image.GetOrigin()))
    return turned


def _reorient(image: sitk.Image, seed: int) -> sitk.Image:
    """The same body with the voxels' axes permuted and flipped, which no reader of headers may be confused by."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(["RL", "AP", "IS"])
    return sitk.DICOMOrient(image, "".join(pair[rng.integers(2)] for pair in pairs))


def _measure_error(folder: Path, turn: sitk.Transform) -> float:
    """Mean distance in the brain between where the found transform leads and where the turned truth does."""
    mask = sitk.ReadImage(str(folder / "mask_2mm.nii.gz"))
    found = sitk.ReadTransform(str(folder / "out" / "transform.h5"))
    truth = sitk.DisplacementFieldTransform(sitk.ReadImage(str(folder / "truth.nii.gz"), sitk.sitkVectorFloat64))
    index = np.argwhere(sitk.GetArrayFromImage(mask) > 0)[::97, ::-1].tolist()
    points = [mask.TransformIndexToPhysicalPoint(place) for place in index]
    distance = [
        np.subtract(found.TransformPoint(point), turn.TransformPoint(truth.TransformPoint(point))) for point in points
    ]
    return float(np.linalg.norm(distance, axis=-1).mean())
