"""The files that a registration leaves behind."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from keramorph import __version__
from keramorph.io import write_image
from keramorph.report import write_report
from keramorph.space import Image
from keramorph.transforms import write_transform

VOLUMES = (".nii.gz", ".nii", ".nrrd", ".mha", ".tif", ".tiff")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")


def write_files(
    result: Any,
    folder: Path,
    *,
    images: tuple[list[Path], list[Path]],
    run: dict[str, Any],
    maps: Mapping[str, Image] = MappingProxyType({}),
) -> list[str]:
    """Write everything that a registration found into a folder.

    Args:
        result: What `keramorph.register` returned.
        folder: An empty folder.
        images: Files or folders that the fixed and the moving images came from, the first ones in front.
        run: What else the summary shall tell about the run.
        maps: Further images to write, by the names of their files without an ending.

    Returns:
        Names of the files.
    """
    (fixed, *also_fixed), (moving, *also_moving) = images
    moved = "moved" + choose_suffix(fixed, moving, result.moved)
    write_image(result.moved, folder / moved)
    write_transform(result.transform, folder / "transform.h5")
    write_transform(result.inverse, folder / "inverse.h5")
    write_report(result, folder / "report.png", names=(fixed.name, moving.name))
    names = [moved, "transform.h5", "inverse.h5", "report.png", "summary.json"]
    for name, image in maps.items():
        names.append(name + choose_suffix(fixed, moving, image))
        write_image(image, folder / names[-1])
    summary = {
        "versions": read_versions(),
        "inputs": {
            "fixed": _describe(result.fixed, fixed),
            "moving": _describe(result.moving, moving),
            "also_fixed": also_fixed,
            "also_moving": also_moving,
        },
        "outcome": dataclasses.asdict(result.outcome),
        "metric": dataclasses.asdict(result.metric),
        "start": None if result.start is None else dataclasses.asdict(result.start),
        "metrics": dict(result.metrics),
        **run,
        "files": names,
    }
    text = json.dumps(make_plain(summary), indent=2, allow_nan=False)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    return names


def choose_suffix(fixed: Path, moving: Path, moved: Image) -> str:
    """Return the ending of the moved image's file: that of an input where it loses nothing.

    Volumes take the fixed image's format, whose position they share. A picture stays a picture if both inputs are
    pictures and its values fit into PNG, for JPEG would lose some.

    Args:
        fixed: File or folder of the fixed image.
        moving: File or folder of the moving image.
        moved: The image to be written.

    Example:
        >>> from keramorph.space import Grid
        >>> choose_suffix(Path("a.jpg"), Path("b.jpg"), Image(np.zeros((4, 5, 1), "uint8"), Grid.from_spacing((4, 5))))
        '.png'
    """
    fits = moved.grid.ndim == 2 and moved.channels in (1, 3) and moved.array.dtype in (np.uint8, np.uint16)
    for name in (fixed.name.lower(), moving.name.lower()):
        suffix = next((suffix for suffix in (*VOLUMES, *PICTURES) if name.endswith(suffix)), "")
        if suffix in PICTURES and fits:
            return ".png"
        if suffix in VOLUMES and (moved.grid.ndim == 2 or not suffix.startswith(".tif")):
            return suffix
    return ".nii.gz"


def read_versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    return {
        "keramorph": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "scipy", "SimpleITK")},
    }


def make_plain(value: Any) -> Any:
    """Return a value in the types of JSON, which has neither NumPy's numbers nor NaN: null stands for those."""
    if isinstance(value, dict):
        return {str(name): make_plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [make_plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return make_plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)


def _describe(image: Image, path: Path) -> dict[str, Any]:
    return {
        "path": str(path),
        "shape": image.grid.shape,
        "spacing_mm": image.grid.spacing,
        "channels": image.channels,
        "dtype": str(image.array.dtype),
    }
