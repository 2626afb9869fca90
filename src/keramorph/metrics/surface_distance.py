"""Distances between the surfaces of labels, in millimetres."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_erosion, find_objects, generate_binary_structure
from scipy.spatial import KDTree

from keramorph._typing import Array
from keramorph.errors import OptionError, ShapeError
from keramorph.metrics.labels import check_label_maps, choose_labels
from keramorph.space import Grid


def hausdorff95(
    fixed_labels: Array,
    moved_labels: Array,
    *,
    spacing: Sequence[float] | float | None = None,
    grid: Grid | None = None,
    labels: Sequence[int] | None = None,
) -> dict[int, float]:
    """Return the 95th percentile of the surface distance of each label, in millimetres.

    From each surface voxel of one map the distance to the nearest one of the other is taken, between voxel centres. The
    percentile is that of each direction by itself, interpolated linearly, and the larger of the two is the result.
    A surface voxel belongs to the label and has a face neighbour that does not; what lies outside the grid does not.

    Args:
        fixed_labels: Label map `(*spatial)`, integers or booleans.
        moved_labels: Label map of the same shape, on the same grid.
        spacing: Millimetres between voxel centres along each array axis, or one for all; None means 1 mm.
        grid: The voxels' places instead of a spacing, where the axes are not at right angles to each other.
        labels: The labels to score; None takes all that occur in either map but 0.

    Returns:
        Millimetres by label; nan where one of the maps does not have it.

    Raises:
        ArrayTypeError: If a label map holds fractions.
        OptionError: If both a spacing and a grid are given, or the spacing is no positive length.
        ShapeError: If the maps differ in shape, or do not fit the spacing or the grid.

    Example:
        >>> fixed, moved = np.zeros((2, 9, 9), int)
        >>> fixed[2:5, 2:5] = 1
        >>> moved[3:6, 2:5] = 1
        >>> hausdorff95(fixed, moved, spacing=(2.5, 1.0))
        {1: 2.5}

    References:
        Huttenlocher et al. (1993), Comparing images using the Hausdorff distance, https://doi.org/10.1109/34.232073
    """
    distances = measure_surface_distances(fixed_labels, moved_labels, spacing=spacing, grid=grid, labels=labels)
    return {
        label: max(float(np.percentile(forth, 95)), float(np.percentile(back, 95))) if forth.size else float("nan")
        for label, (forth, back) in distances.items()
    }


def mean_surface_distance(
    fixed_labels: Array,
    moved_labels: Array,
    *,
    spacing: Sequence[float] | float | None = None,
    grid: Grid | None = None,
    labels: Sequence[int] | None = None,
) -> dict[int, float]:
    """Return the average symmetric surface distance of each label, in millimetres.

    From each surface voxel of one map the distance to the nearest one of the other is taken, between voxel centres, and
    the mean is that of the distances of both directions together. A surface voxel belongs to the label and has a face
    neighbour that does not; what lies outside the grid does not.

    Args:
        fixed_labels: Label map `(*spatial)`, integers or booleans.
        moved_labels: Label map of the same shape, on the same grid.
        spacing: Millimetres between voxel centres along each array axis, or one for all; None means 1 mm.
        grid: The voxels' places instead of a spacing, where the axes are not at right angles to each other.
        labels: The labels to score; None takes all that occur in either map but 0.

    Returns:
        Millimetres by label; nan where one of the maps does not have it.

    Raises:
        ArrayTypeError: If a label map holds fractions.
        OptionError: If both a spacing and a grid are given, or the spacing is no positive length.
        ShapeError: If the maps differ in shape, or do not fit the spacing or the grid.

    Example:
        >>> fixed, moved = np.zeros((2, 9, 9), int)
        >>> fixed[2:5, 2:5] = 1
        >>> moved[3:6, 2:5] = 1
        >>> mean_surface_distance(fixed, moved, spacing=(3.0, 2.0))
        {1: 1.375}

    References:
        Heimann et al. (2009), Comparison and evaluation of methods for liver segmentation from CT datasets,
        https://doi.org/10.1109/TMI.2009.2013851
    """
    distances = measure_surface_distances(fixed_labels, moved_labels, spacing=spacing, grid=grid, labels=labels)
    return {
        label: float(np.concatenate(pair).mean()) if pair[0].size else float("nan") for label, pair in distances.items()
    }


def measure_surface_distances(
    fixed_labels: Array,
    moved_labels: Array,
    *,
    spacing: Sequence[float] | float | None = None,
    grid: Grid | None = None,
    labels: Sequence[int] | None = None,
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Distances in millimetres by label, from the fixed surface to the moved one and back; empty if one is missing."""
    fixed, moved = check_label_maps(fixed_labels, moved_labels)
    matrix = _choose_matrix(fixed.shape, spacing, grid)
    distances = {}
    for label in choose_labels(fixed, moved, labels):
        # Coordinates by the whole matrix, so that oblique and sheared grids are measured right as well.
        first, second = (_find_surface(labelled == label) @ matrix.T for labelled in (fixed, moved))
        if len(first) and len(second):
            distances[label] = KDTree(second).query(first)[0], KDTree(first).query(second)[0]
        else:
            distances[label] = np.empty(0), np.empty(0)
    return distances


def _choose_matrix(shape: tuple[int, ...], spacing: Sequence[float] | float | None, grid: Grid | None) -> np.ndarray:
    """Matrix `(ndim, ndim)` from voxels to millimetres."""
    if grid is not None and spacing is not None:
        raise OptionError(
            f"Voxels are placed by a spacing or by a grid. Received: spacing={spacing!r}, grid={grid!r}. Leave one out."
        )
    if grid is not None:
        if grid.shape != shape:
            raise ShapeError(
                f"The grid must be that of the labels. Received: grid.shape={grid.shape}, fixed_labels.shape={shape}. "
                "Take the grid of the fixed image."
            )
        return grid.matrix
    steps = np.atleast_1d(np.asarray(1.0 if spacing is None else spacing, dtype=np.float64))
    if steps.shape not in ((1,), (len(shape),)):
        raise ShapeError(
            f"A spacing has one length for each of the {len(shape)} axes. Received: spacing={spacing!r}, "
            f"fixed_labels.shape={shape}. Give the lengths in the order of the array's axes."
        )
    if not (np.isfinite(steps).all() and (steps > 0).all()):
        raise OptionError(f"A spacing is a positive number of millimetres. Received: spacing={spacing!r}. Check units.")
    return np.diag(np.broadcast_to(steps, (len(shape),)))


def _find_surface(mask: np.ndarray) -> np.ndarray:
    """Indices `(voxels, ndim)` of the voxels of a mask that have a face neighbour outside it, float64."""
    if not mask.any():
        return np.empty((0, mask.ndim))
    box = find_objects(mask.astype(np.uint8))[0]  # eroding the whole image for a small label costs most of the time
    inside = mask[box]
    surface = inside & ~binary_erosion(inside, structure=generate_binary_structure(mask.ndim, 1), border_value=0)
    return np.argwhere(surface) + np.array([part.start for part in box], dtype=np.float64)
