"""What a report shows of each plane: the images before and after on the fixed grid, and where its points go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from keramorph.ops import sample
from keramorph.report.planes import Plane
from keramorph.space import Image
from keramorph.transforms.blocks import cut_out, find_ends

FEW_VALUES = 200_000
"""As many values as the range of an image is read from."""


class Result(Protocol):
    """What a report reads of a registration result."""

    @property
    def fixed(self) -> Image:
        """Fixed image."""

    @property
    def moving(self) -> Image:
        """Moving image, on its own grid."""

    @property
    def moved(self) -> Image:
        """Moving image on the fixed grid, aligned."""

    @property
    def transform(self) -> Any:
        """Transform from fixed to moving points, in millimetres."""

    @property
    def outcome(self) -> Any:
        """How the registration ended: `status` and `reason`."""

    @property
    def metrics(self) -> Any:
        """Numbers by name."""


@dataclass(frozen=True, eq=False)
class View:
    """One plane of a registration, ready to be drawn.

    Args:
        plane: The plane of the fixed grid.
        fixed: Fixed image `(rows, columns, channels)`, its range scaled to 0 to 1.
        before: Moving image on the same voxels as the headers place it, scaled alike.
        moved: Moving image, aligned, scaled alike.
        across: Millimetres `(rows, columns)` along the picture's columns at which the moving image is read.
        down: The same along the picture's rows.
    """

    plane: Plane
    fixed: np.ndarray
    before: np.ndarray
    moved: np.ndarray
    across: np.ndarray
    down: np.ndarray

    def difference(self, image: np.ndarray) -> np.ndarray:
        """Fixed minus another image of the view `(rows, columns)`, from -1 to 1; channels count together."""
        return self.fixed.mean(axis=-1) - image.mean(axis=-1)


def look(result: Result, planes: Sequence[Plane]) -> list[View]:
    """Return what a report shows of a registration result in each of the planes.

    Args:
        result: What `keramorph.register` returns.
        planes: Planes of the fixed grid.

    Returns:
        One view per plane.
    """
    fixed_range, moving_range = find_range(result.fixed.array), find_range(result.moving.array)
    views = []
    for plane in planes:
        points = result.fixed.grid.to_physical(plane.index)
        read_at = result.transform.apply_points(points)
        views.append(
            View(
                plane,
                fixed=scale(plane.pick(result.fixed.array), fixed_range),
                before=scale(_read(result.moving, points, outside=moving_range[0]), moving_range),
                moved=scale(plane.pick(result.moved.array), moving_range),
                across=read_at[..., plane.axes[1]],
                down=read_at[..., plane.axes[0]],
            )
        )
    return views


def find_range(array: np.ndarray) -> tuple[float, float]:
    """Return the 1st and the 99th percentile of an image, from a regular share of its values where it is large."""
    values = array.reshape(-1)[:: max(1, array.size // FEW_VALUES)].astype(np.float64)
    low, high = np.percentile(values[np.isfinite(values)], (1, 99)) if np.isfinite(values).any() else (0, 1)
    return float(low), float(high if high > low else low + 1)


def scale(array: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Return the array with `limits` taken to 0 and 1, and what lies beyond them to these ends."""
    low, high = limits
    return np.clip((np.nan_to_num(array.astype(np.float64), nan=low) - low) / (high - low), 0.0, 1.0)


def _read(image: Image, points: np.ndarray, *, outside: float) -> np.ndarray:
    """Values `(rows, columns, channels)` of an image at physical points `(rows, columns, ndim)`."""
    index = image.grid.to_index(points)
    part, first = cut_out(image.array, find_ends(index))
    return sample(part[None].astype(np.float32), (index - first)[None], boundary="constant", fill_value=outside)[0]
