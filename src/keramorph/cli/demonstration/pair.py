"""Part one of the demo: two pictures, no training."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from keramorph.cli.demonstration.scene import Answer, make_scene, read_slice
from keramorph.registration import register
from keramorph.transforms import to_voxel_displacement

SEED = 7


def register_slice(*, progress: Callable[[Any], None] | None = None) -> tuple[Answer, Any]:
    """Return how well the slice is registered with a copy of it that is bent and has another contrast.

    Args:
        progress: Called by `keramorph.register` as it goes along.

    Returns:
        The answer, and the result of `keramorph.register`.

    Example:
        >>> answer, result = register_slice()  # doctest: +SKIP
        >>> answer.endpoint_errors[1] < answer.endpoint_errors[0] / 2  # doctest: +SKIP
        True
    """
    scene = make_scene(read_slice(), np.random.default_rng(SEED), largest=12.0)
    start = time.perf_counter()
    result = register(scene.fixed, scene.moving, progress=progress)
    seconds = time.perf_counter() - start
    grid = result.fixed.grid
    displacement = to_voxel_displacement(result.transform.displacement_on(grid), grid)
    return Answer(scene, displacement, result.moved.array[..., 0], seconds), result
