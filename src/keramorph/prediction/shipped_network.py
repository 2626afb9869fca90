"""The networks that come with the package, on NumPy arrays."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from keramorph import ops
from keramorph.prediction.network import Network, View
from keramorph.prediction.plain_layers import convolve, correlate, grow, halve, pool, standardize
from keramorph.weights import TrainedWeights, read_weights

BUILTIN = "builtin"
"""What these networks are called where a model is named."""

_VOXELS = {2: 256, 3: 96}
"""Most voxels along the longest axis of an image that a network sees: what structures look like in training, and what
is done in a moment."""


class ShippedNetwork(Network):
    """The networks that come with the package, for 2-D and for 3-D images, behind one door."""

    def __init__(self) -> None:
        super().__init__(View(channels=1, voxels=_VOXELS), "the builtin model")

    def find(self, fixed: np.ndarray, moving: np.ndarray, smoothness: float) -> Any:
        """What it predicts."""
        return _load(f"shapes_{fixed.ndim - 2}d").predict(fixed, moving)


class PlainDualStream:
    """A trained `keramorph.networks.DualStream` that needs no framework.

    Args:
        weights: Its design and its weights.
    """

    def __init__(self, weights: TrainedWeights) -> None:
        self._design, self._arrays = weights

    def predict(self, fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
        """Return the displacement `(1, *spatial, ndim)` float32 from fixed to moving, in voxels.

        Args:
            fixed: Fixed image `(1, *spatial, 1)`, float32 in [0, 1].
            moving: Moving image, likewise.
        """
        finest, levels = self._design["finest"], len(self._design["encoder"])
        missing = [-n % 2 ** (finest + levels - 1) for n in fixed.shape[1:-1]]
        margins = [(0, 0), *((m // 2, m - m // 2) for m in missing), (0, 0)]
        features = [self._encode(np.pad(image, margins)) for image in (fixed, moving)]
        displacement, seen = None, None
        for level in reversed(range(finest, finest + levels)):
            of_fixed, of_moving = (every[level - finest] for every in features)
            displacement, seen = self._refine(level, of_fixed, of_moving, displacement, seen)
        if finest:
            framed = [n + more for n, more in zip(fixed.shape[1:-1], missing, strict=True)]
            displacement = ops.resize_displacement(displacement, shape=framed)
        middle = (slice(first, first + n) for (first, _), n in zip(margins[1:-1], fixed.shape[1:-1], strict=True))
        return displacement[(slice(None), *middle)]  # type: ignore[index]

    def _encode(self, image: np.ndarray) -> list[np.ndarray]:
        """Features of an image at each level, the finest first."""
        features = image
        every: list[np.ndarray] = []
        for step in range(self._design["finest"]):
            features = halve(features, *self._look_up(f"stem_{step}"))
        for level in range(self._design["finest"], self._design["finest"] + len(self._design["encoder"])):
            features = pool(features) if every else features
            for index in range(2):
                features = convolve(features, *self._look_up(f"encoder_{level}_{index}"))
            features = standardize(features)
            every.append(features)
        return every

    def _refine(
        self,
        level: int,
        fixed: np.ndarray,
        moving: np.ndarray,
        coarser: np.ndarray | None,
        seen: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Displacement of a level, in its voxels, and what the finer one is told besides."""
        so_far, more = None, []
        if coarser is not None and seen is not None:
            so_far = ops.resize_displacement(coarser, shape=fixed.shape[1:-1])
            moving = ops.warp(moving, so_far, boundary="nearest")
            more = [so_far, grow(seen)]
        volume = correlate(fixed, moving, self._design["radius"])
        features = np.concatenate([fixed, moving, volume, *more], axis=-1)
        for index in range(2):
            features = convolve(features, *self._look_up(f"decoder_{level}_{index}"))
        head = f"displacement_{level}" if so_far is None else f"head_{level}"
        further = convolve(features, *self._look_up(head), activate=False)
        return further if so_far is None else ops.compose(so_far, further), features

    def _look_up(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Kernel and bias of a layer."""
        return self._arrays[f"{layer}/kernel"], self._arrays[f"{layer}/bias"]


@functools.cache
def _load(name: str) -> PlainDualStream:
    return PlainDualStream(read_weights(name))
