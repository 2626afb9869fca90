"""Images in and out: files of every format that SimpleITK reads, DICOM folders, and objects of other libraries."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from keramorph.errors import ArrayTypeError, FileError, InputError, ShapeError
from keramorph.io.dicom import read_series
from keramorph.io.integrity import check_whole
from keramorph.io.nibabel import from_nibabel, is_nibabel
from keramorph.io.nifti import has_finite_value
from keramorph.io.pictures import SUFFIXES as PICTURES
from keramorph.io.pictures import to_picture
from keramorph.io.simpleitk import from_simpleitk, quiet, to_simpleitk
from keramorph.io.writing import replacing
from keramorph.space import Grid, Image

_WRITABLE = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".tif", ".tiff", *PICTURES)
_WITH_ALPHA = {"PNGImageIO": (2, 4), "TIFFImageIO": (4,), "BMPImageIO": (4,), "JPEGImageIO": (4,)}
"""Numbers of channels of which the last one is transparency, by the reader of the format."""


def read_image(source: Any) -> Image:
    """Return an image with its physical grid, from a file, a DICOM folder or an object in memory.

    Files are read through SimpleITK: NIfTI, NRRD, MetaImage, DICOM, TIFF (several pages make a volume), PNG, JPEG,
    BMP and whatever else it knows. Colours and vectors become channels, transparency is dropped. A 2-D file stays
    2-D; a volume with one slice keeps its axis of size 1. NaN in a NIfTI file reads as 0, which is ITK's doing.

    Args:
        source: A path; an `Image`; a SimpleITK image, which keeps its array order (z, y, x); a nibabel image, which
            keeps (i, j, k); or a NumPy array with spatial axes only, taken to have voxels of 1 mm and the last axis
            along x.

    Returns:
        The image `(*spatial, channels)` in the stored data type, on its grid in millimetres (LPS).

    Raises:
        FileError: If a file is missing, truncated, damaged, of an unknown format, or holds several volumes or series.
        InputError: If an object is of another kind, has no voxels or no finite value.

    Example:
        >>> read_image(np.zeros((5, 6, 7), "int16")).array.shape
        (5, 6, 7, 1)
    """
    if isinstance(source, str | Path):
        return _read_file(Path(source))
    image = _from_object(source)
    _check_values(image.array, "an array" if isinstance(source, np.ndarray) else f"a {type(source).__name__}")
    return image


def write_image(image: Image, path: str | Path) -> None:
    """Write an image to a file, whole or not at all; the suffix picks the format.

    NIfTI, NRRD and MetaImage keep values, data type and position. TIFF keeps values and, in 2-D, spacing. PNG, JPEG
    and BMP keep spacing and hold whole numbers: `uint8` stays as it is, in PNG `uint16` too; other values within
    0...255 are rounded (integers within 0...65535 become `uint16` in PNG); anything beyond is stretched linearly
    from its range to 0...255; NaN becomes 0.

    Args:
        image: Values and grid, 2-D or 3-D.
        path: File to write, ending in `.nii.gz`, `.nii`, `.nrrd`, `.nhdr`, `.mha`, `.mhd`, `.tif`, `.tiff`, `.png`,
            `.jpg`, `.jpeg` or `.bmp`. An existing file is replaced.

    Raises:
        FileError: If the suffix is unknown, the format cannot hold the image, or the place cannot be written to.
        InputError: If the grid is sheared, which no format can hold.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_image(read_image(np.eye(5, dtype="uint8")), f"{folder}/eye.png")
        ...     read_image(f"{folder}/eye.png").array.sum()
        np.uint64(5)
    """
    import SimpleITK as sitk

    path = Path(path)
    if not path.name.lower().endswith(_WRITABLE):
        raise FileError(
            f"An image file must end in one of {', '.join(_WRITABLE)}. Received: path={str(path)!r}. Change its name."
        )
    if path.suffix.lower() in PICTURES:
        image = to_picture(image, path)
    elif path.suffix.lower() in (".tif", ".tiff"):
        image = _to_tiff(image, path)
    content = to_simpleitk(image)
    with replacing(path) as temporary, quiet():
        try:
            sitk.WriteImage(content, str(temporary))
        except RuntimeError as problem:
            raise FileError(
                f"ITK cannot write the image: the disk is full, or {path.suffix} holds no {image.array.dtype} values "
                f"with {image.channels} channels. Received: path={str(path)!r}. Try .nii.gz, .nrrd or .mha."
            ) from problem


def _from_object(source: Any) -> Image:
    """Image of an object in memory."""
    if isinstance(source, Image):
        return source
    simpleitk = sys.modules.get("SimpleITK")
    if simpleitk is not None and isinstance(source, simpleitk.Image):
        return from_simpleitk(source)
    if is_nibabel(source):
        return from_nibabel(source)
    if not hasattr(source, "__array__"):
        raise InputError(
            "An image must be a path, a NumPy array, a SimpleITK or nibabel image, or a keramorph Image. Received: "
            f"type={type(source).__name__}. Convert it to one of these."
        )
    array = np.asarray(source)
    if array.ndim not in (2, 3):
        raise ShapeError(
            f"An array must have 2 or 3 axes, all of them spatial. Received: shape={array.shape}. Pass channels in an "
            "`Image(array, grid)`, whose array has a channel axis behind the spatial ones."
        )
    if array.size == 0:
        raise ShapeError(f"An image must have voxels. Received: shape={array.shape}. Pass an array that is not empty.")
    return Image(array[..., None], Grid.from_spacing(array.shape, 1.0))


def _check_values(array: np.ndarray, name: str) -> None:
    """Refuse values that are no real numbers, or of which none is finite."""
    if array.dtype.kind not in "biuf":
        raise ArrayTypeError(
            f"An image needs real numbers. Received: {name} with dtype={array.dtype}. Take the magnitude or one part."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).any():
        raise InputError(
            f"An image needs at least one finite value. Received: {name} of shape {array.shape[:-1]} with only NaN or "
            "infinite values. Check how it was made."
        )


def _read_file(path: Path) -> Image:
    """Image of a file or of a DICOM folder."""
    if not path.exists():
        raise FileError(f"There is no such file. Received: path={str(path)!r}. Check the spelling and the folder.")
    if path.is_dir():
        image = from_simpleitk(read_series(path))
    else:
        check_whole(path)
        image = _read_one(path)
    if image.array.dtype.kind not in "biuf":
        raise FileError(
            f"An image file must hold real numbers. Received: path={str(path)!r} with {image.array.dtype} values. "
            "Write the magnitude to another file."
        )
    _check_values(image.array, f"path={str(path)!r}")
    return image


def _read_one(path: Path) -> Image:
    """Image of one file that is there and not obviously damaged."""
    import SimpleITK as sitk

    with quiet():
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        format_reader = sitk.ImageFileReader.GetImageIOFromFileName(str(path))
        if not format_reader:
            raise FileError(
                f"The file is damaged, or not an image of a known format. Received: path={str(path)!r}. Pass NIfTI, "
                "NRRD, MetaImage, DICOM, TIFF, PNG, JPEG or BMP."
            )
        try:
            content = reader.Execute()
        except RuntimeError as problem:
            raise FileError(_explain(path, str(problem))) from problem
    try:
        image = from_simpleitk(content)
        if format_reader == "NiftiImageIO" and not (image.array.any() or has_finite_value(path)):
            image.array.fill(np.nan)
    except InputError as problem:
        raise FileError(
            f"A file must hold one 2-D or 3-D image. Received: path={str(path)!r} of size {content.GetSize()}. Pick "
            "one volume and write it to a file of its own."
        ) from problem
    if image.channels in _WITH_ALPHA.get(format_reader, ()):
        return Image(image.array[..., :-1], image.grid)
    return image


def _explain(path: Path, message: str) -> str:
    """Sentence for what ITK could not read."""
    if "orthonormal" in message or "determinant" in message:
        return (
            f"The header's orientation cannot be used: its axes are sheared, or do not span the space. Received: path="
            f"{str(path)!r}. Resample the image to orthogonal axes, or correct its header."
        )
    return f"The file is truncated or damaged. Received: path={str(path)!r}. Copy or download it again."


def _to_tiff(image: Image, path: Path) -> Image:
    """Image in a data type that TIFF has in ITK: 64-bit values in 32 bits, if they fit."""
    array = image.array
    if array.dtype.itemsize < 8:
        return image
    if array.dtype.kind == "f":
        return Image(array.astype(np.float32), image.grid)
    for dtype in (np.int32, np.uint32):
        if array.min() >= np.iinfo(dtype).min and array.max() <= np.iinfo(dtype).max:
            return Image(array.astype(dtype), image.grid)
    raise FileError(
        f"A .tif file holds integers of 32 bits. Received: path={str(path)!r} with {array.dtype} values up to "
        f"{array.max()}. Write .nii.gz, .nrrd or .mha."
    )
