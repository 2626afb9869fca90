"""Landmarks of pairs: from files to voxels of the common grid, and through its windows and mirrors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keramorph.errors import FileError
from keramorph.io.points import read_points
from keramorph.space import Grid
from keramorph.training.pair_lists import Pair


def read_landmarks(path: Path, ndim: int) -> np.ndarray:
    """Return the landmarks of a file, `(points, ndim)` in millimetres (x, y, z), NaN where one is missing.

    Raises:
        FileError: If the file is missing or damaged, or its points have another number of coordinates.
    """
    points = read_points(path, missing=True).points
    if points.shape[1] != ndim:
        raise FileError(
            f"Landmarks have a coordinate for each of the {ndim} axes of the common grid. Received: path={str(path)!r} "
            f"with {points.shape[1]}. Add the column, or take it away."
        )
    return points


def count_landmarks(pair: Pair, ndim: int) -> int:
    """Return the number of landmarks of a pair, which are as many in both images; 0 where it has none.

    Raises:
        FileError: If one of the files cannot be used, or has more landmarks than the other.
    """
    if pair.fixed_landmarks is None or pair.moving_landmarks is None:
        return 0
    files = pair.fixed_landmarks, pair.moving_landmarks
    fixed, moving = (len(read_landmarks(Path(path), ndim)) for path in files)
    if fixed != moving:
        raise FileError(
            f"Both images of a pair have the same landmarks, in one order. Received: {fixed} in {str(files[0])!r}, "
            f"{moving} in {str(files[1])!r}. Leave the coordinates empty where one is missing."
        )
    return fixed


def find_indices(points: np.ndarray, grid: Grid, count: int) -> np.ndarray:
    """Return points in voxels of a grid, `(count, ndim)`, with rows of NaN after the last of them."""
    rest = np.full((count - len(points), grid.ndim), np.nan)
    return np.concatenate([grid.to_index(points), rest])


def view_indices(indices: np.ndarray, window: Sequence[slice], mirrored: Sequence[int]) -> np.ndarray:
    """Return where landmarks lie in a window that is mirrored along some axes, NaN for those that it does not show."""
    sizes = np.array([part.stop - part.start for part in window])
    indices = indices - [part.start for part in window]
    for axis in mirrored:
        indices[:, axis] = sizes[axis] - 1 - indices[:, axis]
    # The window ends with the faces of its last voxels.
    shown = np.all((indices >= -0.5) & (indices <= sizes - 0.5), axis=-1, keepdims=True)
    return np.where(shown, indices, np.nan)
