"""What label metrics need of two label maps: whole numbers on one grid, and the list of labels to score."""

from collections.abc import Sequence

import numpy as np

from keramorph._typing import Array
from keramorph.errors import ArrayTypeError, ShapeError


def check_label_maps(fixed_labels: Array, moved_labels: Array) -> tuple[np.ndarray, np.ndarray]:
    """Return both label maps as NumPy arrays, once they are known to hold labels and to have one shape."""
    fixed, moved = np.asarray(fixed_labels), np.asarray(moved_labels)
    for name, array in (("fixed_labels", fixed), ("moved_labels", moved)):
        if array.dtype.kind not in "biu":
            raise ArrayTypeError(
                f"A label map holds integers or booleans. Received: {name}.dtype={array.dtype}. Warp labels with "
                "order=0, which keeps their data type, or round them first."
            )
    if fixed.shape != moved.shape:
        raise ShapeError(
            f"Label maps are compared on one grid. Received: fixed_labels.shape={fixed.shape}, "
            f"moved_labels.shape={moved.shape}. Resample the moving labels onto the fixed grid."
        )
    return fixed, moved


def choose_labels(fixed: np.ndarray, moved: np.ndarray, labels: Sequence[int] | None) -> list[int]:
    """Return the labels as plain integers: those given, or all that occur in either map but the background, 0."""
    if labels is not None:
        return [int(label) for label in labels]
    found = np.union1d(np.unique(fixed), np.unique(moved))
    return [int(label) for label in found if label != 0]
