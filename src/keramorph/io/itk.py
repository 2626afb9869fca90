"""ITK's transform files, in raw matrices and fields: LPS millimetres, fixed points to moving points.

A composite `.h5` lists its transforms so that the LAST one is applied FIRST to points; here the first one is applied
first, always. A displacement field is worth ZERO outside its grid in ITK, while Keramorph extends its edge: both agree
on the grid and half a voxel around it, so a field should cover the whole fixed image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from keramorph.errors import FileError, InputError, OptionError
from keramorph.io.integrity import check_whole
from keramorph.io.simpleitk import from_simpleitk, place, quiet, to_memory_order, to_simpleitk
from keramorph.io.writing import replacing
from keramorph.space import Grid, Image

Step: TypeAlias = np.ndarray | tuple[np.ndarray, Grid]
"""A homogeneous matrix, or a displacement field `(*grid.shape, ndim)` in millimetres (x, y, z) with its grid."""


class _Entry(NamedTuple):
    """A transform in an ITK file, by the name of its class; `fixed` is what no optimiser would change."""

    name: str
    fixed: np.ndarray | None = None
    parameters: np.ndarray | None = None


FIELDS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr")
LINEAR = (".tfm", ".txt", ".mat")
COMPOSITE = (".h5", ".hdf5", ".hdf")


def read_steps(path: str | Path) -> list[Step]:
    """Return what an ITK transform file holds, as the steps that points go through.

    Args:
        path: A transform `.h5`, `.tfm`, `.txt` or `.mat`, or the image of a displacement field.

    Returns:
        The steps, the first one applied first: matrices `(ndim + 1, ndim + 1)`, and pairs of a displacement field
        `(*grid.shape, ndim)` in millimetres (x, y, z) with its grid.

    Raises:
        FileError: If the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"There is no such file. Received: path={str(path)!r}. Check the spelling and the folder.")
    check_whole(path)
    if path.name.lower().endswith(FIELDS):
        return [_read_field(path)]
    import SimpleITK as sitk

    with quiet():
        try:
            transform = sitk.ReadTransform(str(path))
        except RuntimeError as problem:
            raise FileError(
                f"The file is damaged, or not an ITK transform. Received: path={str(path)!r}. Pass a .h5, .tfm, .txt "
                "or .mat file of ITK or ANTs, or the image of a displacement field."
            ) from problem
    return _to_steps(transform, path)


def write_steps(steps: Sequence[Step], path: str | Path) -> None:
    """Write steps to an ITK transform file, whole or not at all; the suffix picks the format.

    Args:
        steps: Matrices and fields as `read_steps` gives them, the first one applied first.
        path: `.h5` for anything; `.tfm`, `.txt` or `.mat` for matrices, which are multiplied into one; `.nii.gz`,
            `.nii`, `.mha` or `.nrrd` for a single field. An existing file is replaced.

    Raises:
        OptionError: If the suffix is unknown, or its format cannot hold these steps.
        FileError: If the place cannot be written to.
    """
    import SimpleITK as sitk

    path = Path(path)
    name = path.name.lower()
    if name.endswith(FIELDS):
        content, write = _only_field(steps, path), sitk.WriteImage
    elif name.endswith(LINEAR):
        content, write = _from_matrix(_product(steps, path)), sitk.WriteTransform
    elif name.endswith(COMPOSITE):
        content, write = _to_composite(steps), _write_composite
    else:
        raise OptionError(
            f"A transform file must end in one of {', '.join((*COMPOSITE, *LINEAR, *FIELDS))}. Received: "
            f"path={str(path)!r}. Change its name; .h5 holds everything."
        )
    with replacing(path) as temporary, quiet():
        try:
            write(content, str(temporary))
        except (OSError, RuntimeError) as problem:
            raise FileError(
                f"ITK cannot write the transform. Received: path={str(path)!r}. Check that the disk is not full."
            ) from problem


def _read_field(path: Path) -> Step:
    """Displacement field of a vector image; ITK turns NIfTI's RAS vectors (intent 1006) into LPS."""
    import SimpleITK as sitk

    with quiet():
        try:
            image = sitk.ReadImage(str(path))
        except RuntimeError as problem:
            raise FileError(
                f"The file is truncated or damaged. Received: path={str(path)!r}. Copy or download it again."
            ) from problem
    ndim, channels = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    if channels != ndim or ndim not in (2, 3):
        raise FileError(
            f"A displacement field has one component per axis, {ndim} here. Received: path={str(path)!r} of size "
            f"{image.GetSize()} with {channels}. NIfTI needs the vector intent code 1007 for that."
        )
    field = from_simpleitk(image)
    return field.array, field.grid


def _to_steps(transform: Any, path: Path) -> list[Step]:
    """Steps of a transform, in the order in which points go through them."""
    import SimpleITK as sitk

    kind = transform.GetTransformEnum()
    if kind == sitk.sitkComposite:
        composite = sitk.CompositeTransform(transform)
        parts = [composite.GetNthTransform(n) for n in reversed(range(composite.GetNumberOfTransforms()))]
        return [step for part in parts for step in _to_steps(part, path)]
    if kind == sitk.sitkDisplacementField:
        field = from_simpleitk(sitk.DisplacementFieldTransform(transform).GetDisplacementField())
        return [(field.array, field.grid)]
    if not transform.IsLinear():
        raise FileError(
            f"A transform must be linear, a displacement field, or a sequence of these. Received: path={str(path)!r} "
            f"with a {transform.GetName()}. Convert it with `SimpleITK.TransformToDisplacementField`."
        )
    return [_to_matrix(transform)]


def _to_matrix(transform: Any) -> np.ndarray:
    """Homogeneous matrix of any linear transform, whatever its parameters, from where it takes the unit vectors."""
    ndim = transform.GetDimension()
    matrix = np.eye(ndim + 1)
    matrix[:ndim, ndim] = transform.TransformPoint([0.0] * ndim)
    for axis in range(ndim):
        unit = np.eye(ndim)[axis]
        matrix[:ndim, axis] = transform.TransformVector(unit.tolist(), [0.0] * ndim)
    return matrix


def _from_matrix(step: np.ndarray) -> Any:
    """ITK transform of a matrix."""
    import SimpleITK as sitk

    ndim = len(step) - 1
    transform = sitk.AffineTransform(ndim)
    transform.SetMatrix(np.asarray(step, dtype=np.float64)[:ndim, :ndim].ravel().tolist())
    transform.SetTranslation(np.asarray(step, dtype=np.float64)[:ndim, ndim].tolist())
    return transform


def _to_composite(steps: Sequence[Step]) -> list[_Entry]:
    """Entries of an ITK composite: what is applied first comes last."""
    if not steps:
        raise InputError("A transform must have at least one step. Received: steps=[]. Pass an identity matrix.")
    ndim = steps[0][1].ndim if isinstance(steps[0], tuple) else len(steps[0]) - 1
    return [_Entry(f"CompositeTransform_double_{ndim}_{ndim}"), *(_to_entry(step) for step in reversed(steps))]


def _to_entry(step: Step) -> _Entry:
    if not isinstance(step, tuple):
        ndim = len(step) - 1
        linear, shift = step[:ndim, :ndim].ravel(), step[:ndim, ndim]
        parameters = np.concatenate([linear, shift]).astype(np.float64)
        return _Entry(f"AffineTransform_double_{ndim}_{ndim}", np.zeros(ndim), parameters)
    field, grid = step
    ndim, placed = grid.ndim, place(grid)
    # ITK turns a field in single precision into a double one as it reads it: half the file, and nothing lost.
    dtype, precision = (np.float32, "float") if field.dtype == np.float32 else (np.float64, "double")
    parameters = np.ascontiguousarray(to_memory_order(field, grid), dtype=dtype)
    name = f"DisplacementFieldTransform_{precision}_{ndim}_{ndim}"
    fixed = np.concatenate([placed.size, placed.origin, placed.spacing, placed.direction.ravel()])
    return _Entry(name, fixed.astype(np.float64), parameters.reshape(-1))


def _write_composite(entries: list[_Entry], path: str) -> None:
    """Write the entries as ITK's own writer would, but without a copy of each field in double precision."""
    import h5py

    with h5py.File(path, "w") as file:
        for number, entry in enumerate(entries):
            group = file.create_group(f"TransformGroup/{number}")
            group.create_dataset("TransformType", data=[entry.name], dtype=h5py.string_dtype("ascii"))
            if entry.parameters is not None:
                group.create_dataset("TransformFixedParameters", data=entry.fixed)
                group.create_dataset("TransformParameters", data=entry.parameters)


def _product(steps: Sequence[Step], path: Path) -> np.ndarray:
    """One matrix for all steps."""
    matrices = [step for step in steps if not isinstance(step, tuple)]
    if len(matrices) < len(steps) or not matrices:
        raise OptionError(
            f"A {path.suffix} file holds a linear transform. Received: path={str(path)!r} for {len(steps)} steps, "
            f"{len(matrices)} of them linear. Write .h5."
        )
    return np.linalg.multi_dot([*reversed(matrices), np.eye(len(matrices[0]))])


def _only_field(steps: Sequence[Step], path: Path) -> Any:
    """Vector image of the one field that an image file can hold, in single precision as ANTs writes it."""
    step = steps[0] if len(steps) == 1 else None
    if not isinstance(step, tuple):
        raise OptionError(
            f"A {path.suffix} file holds one displacement field. Received: path={str(path)!r} for {len(steps)} steps. "
            "Write .h5, or make one field of them with `displacement_on(grid)`."
        )
    return to_simpleitk(Image(np.asarray(step[0], dtype=np.float32), step[1]))
