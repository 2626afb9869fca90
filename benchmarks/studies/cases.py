"""Pairs of images whose deformation is known: the MNI152 template, bent by a random diffeomorphism."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

_SQUARINGS = 8


@dataclass(frozen=True)
class Case:
    """What is done to the template.

    Args:
        name: What the case is called.
        spacing: Of the voxels, in millimetres.
        furthest: Longest displacement in the brain, in millimetres.
        noise: Standard deviation of the noise on both images, as a share of the template's range.
        bias: Amplitude of a shading on the moving image, as a share.
        cut: Share of the moving image's lower end that is missing.
        seed: Of all that is random.
        patient: Whether programs that take minutes take part, too.
    """

    name: str
    spacing: int
    furthest: float = 12.0
    noise: float = 0.02
    bias: float = 0.0
    cut: float = 0.0
    seed: int = 0
    patient: bool = False


CASES = (
    Case("2 mm", 2, patient=True),
    Case("2 mm up to 15 mm", 2, furthest=15.0, seed=1),
    Case("2 mm with three times the noise", 2, noise=0.06),
    Case("2 mm with a shading of 30 %", 2, bias=0.3),
    Case("2 mm with a fifth cut off", 2, cut=0.2),
    Case("1 mm", 1),
)


def make_pair(case: Case, template: Path, folder: Path) -> tuple[Path, Path]:
    """Write `fixed.nii.gz`, `moving.nii.gz` and `truth.nii.gz`, the displacement in millimetres; return the images."""
    rng = np.random.default_rng(case.seed)
    image = sitk.ReadImage(str(template / f"template_{case.spacing}mm.nii.gz"), sitk.sitkFloat32)
    brain = sitk.GetArrayFromImage(sitk.ReadImage(str(template / f"mask_{case.spacing}mm.nii.gz"))) > 0
    truth = _draw_field(image, brain, case.furthest, rng)
    sitk.WriteImage(truth, str(folder / "truth.nii.gz"))
    # The transform takes the image for itself.
    transform = sitk.DisplacementFieldTransform(sitk.Image(truth))
    bent = sitk.Resample(image, image, transform, sitk.sitkBSpline, 0.0)
    moving = sitk.GetArrayFromImage(image)
    # Another contrast: brighter in the middle of the range, so that no difference of intensities stays what it was.
    moving = np.clip(moving, 0, None) ** 0.6 * (1 + case.bias * _wave(moving.shape))
    _write(np.clip(sitk.GetArrayFromImage(bent), 0, None), case, rng, image, folder / "fixed.nii.gz")
    _write(moving, case, rng, image, folder / "moving.nii.gz", cut=round(case.cut * moving.shape[0]))
    return folder / "fixed.nii.gz", folder / "moving.nii.gz"


def measure_errors(found: Path, truth: Path, mask: Path) -> dict[str, float]:
    """Mean and 95th percentile of the distance from the true deformation in the brain, and the share of folds there."""
    fields = [sitk.ReadImage(str(truth), sitk.sitkVectorFloat64)]
    to_field = sitk.TransformToDisplacementFieldFilter()
    to_field.SetReferenceImage(fields[0])
    fields.insert(0, to_field.Execute(sitk.ReadTransform(str(found))))
    inside = sitk.GetArrayFromImage(sitk.ReadImage(str(mask))) > 0
    difference = sitk.GetArrayFromImage(fields[0]) - sitk.GetArrayFromImage(fields[1])
    distance = np.linalg.norm(difference, axis=-1)[inside]
    folds = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(fields[0]))[inside] <= 0
    return {
        "mean_mm": float(distance.mean()),
        "p95_mm": float(np.percentile(distance, 95)),
        "folds_percent": 100 * float(folds.mean()),
    }


def _draw_field(image: sitk.Image, brain: np.ndarray, furthest: float, rng: np.random.Generator) -> sitk.Image:
    """A smooth velocity of two scales, integrated by SciPy, as a displacement in millimetres."""
    spacing = image.GetSpacing()[0]
    velocity = np.zeros((3, *brain.shape))
    for width, weight in ((30, 1.0), (12, 0.25)):
        for axis in range(3):
            noise = ndimage.gaussian_filter(rng.normal(size=brain.shape), width / spacing)
            velocity[axis] += weight * noise / noise.std()
    velocity *= ndimage.gaussian_filter(ndimage.binary_dilation(brain, iterations=4).astype(float), 6 / spacing)
    scale = 1.0
    for _ in range(3):  # the longest displacement is nearly proportional to the velocity
        moved = _integrate(scale * velocity)
        scale *= furthest / spacing / np.linalg.norm(moved, axis=0)[brain].max()
    direction = np.asarray(image.GetDirection()).reshape(3, 3)
    moved = np.einsum("ij,jzyx->zyxi", direction * spacing, _integrate(scale * velocity)[::-1])
    field = sitk.GetImageFromArray(moved, isVector=True)
    field.CopyInformation(image)
    return field


def _integrate(velocity: np.ndarray) -> np.ndarray:
    """Displacement `(3, z, y, x)` in voxels along these axes, by scaling and squaring."""
    field = velocity / 2.0**_SQUARINGS
    own = np.indices(velocity.shape[1:])
    for _ in range(_SQUARINGS):
        field = field + [ndimage.map_coordinates(part, own + field, order=1, mode="nearest") for part in field]
    return field


def _wave(shape: tuple[int, ...]) -> np.ndarray:
    """A shading from -1 to 1 across the image."""
    return sum(np.sin(np.pi * (place / size - 0.5)) for place, size in zip(np.indices(shape), shape, strict=True)) / 3


def _write(
    values: np.ndarray, case: Case, rng: np.random.Generator, like: sitk.Image, path: Path, *, cut: int = 0
) -> None:
    noisy = values + case.noise * values.max() * rng.normal(size=values.shape)
    image = sitk.GetImageFromArray(noisy.astype(np.float32))
    image.CopyInformation(like)
    sitk.WriteImage(image[:, :, cut:], str(path))
