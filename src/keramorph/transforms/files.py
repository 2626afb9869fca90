"""Transforms in files, in ITK's formats."""

from __future__ import annotations

from pathlib import Path

from keramorph.errors import ArrayTypeError
from keramorph.io import itk
from keramorph.transforms.affine import AffineTransform
from keramorph.transforms.composite import CompositeTransform
from keramorph.transforms.displacement import DisplacementTransform
from keramorph.transforms.transform import Transform


def read_transform(path: str | Path) -> Transform:
    """Return the transform in an ITK file, such as SimpleITK and ANTs write.

    Outside a displacement field its edge goes on, where ITK would take zero.

    Args:
        path: A transform `.h5`, `.tfm`, `.txt` or `.mat`, or the image of a displacement field (`.nii.gz`, `.mha`,
            `.nrrd`).

    Returns:
        The transform from fixed to moving points; a composite if there are several steps.

    Raises:
        FileError: If the file is missing, damaged, or holds something else.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_transform(AffineTransform([[1, 0, 2], [0, 1, 3], [0, 0, 1]]), f"{folder}/shift.tfm")
        ...     read_transform(f"{folder}/shift.tfm").apply_points([0, 0]).tolist()
        [2.0, 3.0]
    """
    steps = [
        DisplacementTransform(*step) if isinstance(step, tuple) else AffineTransform(step)
        for step in itk.read_steps(path)
    ]
    return steps[0] if len(steps) == 1 else CompositeTransform(steps)


def write_transform(transform: Transform, path: str | Path) -> None:
    """Write a transform to a file that SimpleITK, ANTs and 3D Slicer read, whole or not at all.

    Args:
        transform: The transform from fixed to moving points.
        path: `.h5` for any transform; `.tfm`, `.txt` or `.mat` for affine ones; `.nii.gz`, `.nii`, `.mha` or `.nrrd`
            for a displacement field. An existing file is replaced.

    Raises:
        OptionError: If the suffix is unknown, or its format cannot hold the transform.
        FileError: If the place cannot be written to.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_transform(AffineTransform(np.eye(4)), f"{folder}/identity.h5")
        ...     read_transform(f"{folder}/identity.h5").ndim
        3
    """
    itk.write_steps(_to_steps(transform), path)


def _to_steps(transform: Transform) -> list[itk.Step]:
    """Matrices and fields of a transform, the first one applied first."""
    if isinstance(transform, CompositeTransform):
        return [step for part in transform.transforms for step in _to_steps(part)]
    if isinstance(transform, AffineTransform):
        return [transform.matrix]
    if isinstance(transform, DisplacementTransform):
        return [(transform.displacement, transform.grid)]
    raise ArrayTypeError(
        "A transform must be affine, a displacement field, or a composite of these. Received: "
        f"type={type(transform).__name__}. Make a field of it with `displacement_on(grid)`."
    )
