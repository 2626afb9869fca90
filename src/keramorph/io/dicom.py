"""DICOM folders: one series of slices becomes one volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from keramorph.errors import FileError
from keramorph.io.simpleitk import quiet

_UNEVEN = 0.1
"""Share of the slice distance by which a slice may lie off its place; beyond that slices are missing."""

_PIXEL_DATA = b"\xe0\x7f\x10\x00"
"""Tag of an image's pixels in little-endian order; reports and directories have none."""


def read_series(folder: Path) -> Any:
    """Return the volume in a folder that holds one DICOM series, as a SimpleITK image.

    Args:
        folder: A folder with the files of one series, in any order and under any names.

    Returns:
        The volume, slices sorted by their position.

    Raises:
        FileError: If there is no series or more than one, or if slices are missing or unreadable.
    """
    import SimpleITK as sitk

    with quiet():
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        if not series:
            raise FileError(
                f"A folder must hold the files of a DICOM series. Received: path={str(folder)!r}, which has none. "
                "Pass the folder right above the files, or an image file."
            )
        if len(series) > 1:
            raise FileError(
                f"A folder must hold one DICOM series. Received: path={str(folder)!r} with {len(series)} of them: "
                f"{_describe(folder, series)}. Put the files of each in a folder of its own."
            )
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
        _check_complete(folder, names)
        reader = sitk.ImageSeriesReader()
        reader.MetaDataDictionaryArrayUpdateOn()
        reader.SetFileNames(names)
        try:
            volume = reader.Execute()
        except RuntimeError as problem:
            raise FileError(
                f"The DICOM series cannot be read: a file is damaged, or sizes differ. Received: path={str(folder)!r}. "
                "Copy or export it again."
            ) from problem
        if volume.HasMetaDataKey("ITK_non_uniform_sampling_deviation"):
            _check_even(folder, reader, volume)
    return volume


def _describe(folder: Path, series: tuple[str, ...]) -> str:
    """Description, identifier and number of files of each series."""
    import SimpleITK as sitk

    words = []
    for identifier in series:
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), identifier)
        reader = sitk.ImageFileReader()
        reader.SetFileName(names[0])
        reader.ReadImageInformation()
        key = "0008|103e"
        description = reader.GetMetaData(key).strip() if reader.HasMetaDataKey(key) else ""
        words.append(f"{description or 'no description'} ({identifier}, {len(names)} files)")
    return "; ".join(words)


def _check_complete(folder: Path, names: tuple[str, ...]) -> None:
    """Refuse a folder in which a slice is damaged: the reader leaves it out without a word."""
    known = {Path(name).name for name in names}
    for path in sorted(folder.iterdir()):
        if path.name in known or not path.is_file():
            continue
        content = path.read_bytes()
        if content[128:132] == b"DICM" and _PIXEL_DATA in content:
            raise FileError(f"A slice is truncated or damaged. Received: path={str(path)!r}. Copy or export it again.")


def _check_even(folder: Path, reader: Any, volume: Any) -> None:
    """Refuse slices at uneven distances: read as if even, they would all lie in the wrong place."""
    key, count = "0020|0032", volume.GetSize()[2]
    if not all(reader.HasMetaDataKey(n, key) for n in range(count)):
        return
    positions = np.array([[float(x) for x in reader.GetMetaData(n, key).split("\\")] for n in range(count)])
    normal = np.reshape(volume.GetDirection(), (3, 3))[:, 2]
    gaps = np.diff(positions @ normal)
    distance = np.abs(gaps).mean()
    if np.abs(gaps - gaps.mean()).max() > _UNEVEN * distance:
        raise FileError(
            f"The slices of a DICOM series must be evenly spaced. Received: path={str(folder)!r} with distances from "
            f"{gaps.min():.4g} to {gaps.max():.4g} mm. Slices are missing or stored twice: export the series again."
        )
