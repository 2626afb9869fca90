"""Overlap of label maps."""

from collections.abc import Sequence

from keramorph._typing import Array
from keramorph.metrics.labels import check_label_maps, choose_labels


def dice(fixed_labels: Array, moved_labels: Array, *, labels: Sequence[int] | None = None) -> dict[int, float]:
    """Return the Dice overlap of each label in two label maps: 1 where they agree, 0 where they do not meet.

    Args:
        fixed_labels: Label map of any shape, integers or booleans; all its voxels count together.
        moved_labels: Label map of the same shape, on the same grid.
        labels: The labels to score; None takes all that occur in either map but 0.

    Returns:
        2 |F and M| / (|F| + |M|) by label, in rising order or in that of `labels`; nan where neither map has it.

    Raises:
        ArrayTypeError: If a label map holds fractions.
        ShapeError: If the maps differ in shape.

    Example:
        >>> import numpy as np
        >>> dice(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]))
        {1: 0.6666666666666666, 2: 0.6666666666666666}

    References:
        Dice (1945), Measures of the amount of ecologic association between species,
        https://doi.org/10.2307/1932409
    """
    fixed, moved = check_label_maps(fixed_labels, moved_labels)
    scores = {}
    for label in choose_labels(fixed, moved, labels):
        in_fixed, in_moved = fixed == label, moved == label
        volume = int(in_fixed.sum()) + int(in_moved.sum())
        scores[label] = 2 * int((in_fixed & in_moved).sum()) / volume if volume else float("nan")
    return scores
