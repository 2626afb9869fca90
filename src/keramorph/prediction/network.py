"""What a network is to a `Predictor`, whatever computes it: how it wants to see images, and what it finds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from keramorph.errors import InputError, OptionError, ShapeError
from keramorph.preparation import cover, finest_spacing, frame_content, lay_in_middle
from keramorph.space import Grid, Image


@runtime_checkable
class ArrayNetwork(Protocol):
    """A network that works on NumPy arrays and needs no framework: any object of this form does for a `Predictor`.

    Attributes:
        ndim: Number of spatial axes.
        voxels: How many voxels at most of the grid on which it sees images lie along the longest axis of what the fixed
            image shows. The grid is straight and isotropic, and no finer than the fixed image.

    Example:
        >>> class Still:
        ...     ndim, voxels = 2, 32
        ...
        ...     def predict(self, fixed, moving):
        ...         return np.zeros((*fixed.shape[:-1], 2), "float32")
        >>> isinstance(Still(), ArrayNetwork)
        True
    """

    ndim: int
    voxels: int

    def predict(self, fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
        """Return the displacement `(1, *spatial, ndim)` from fixed to moving in voxels.

        Args:
            fixed: Fixed image `(1, *spatial, 1)`, float32 in [0, 1].
            moving: Moving image, likewise, after an affine alignment.
        """


@dataclass(frozen=True)
class View:
    """How a network wants to see images; what is None it leaves open.

    Args:
        sizes: Voxels along each array axis, None along those that may have any number.
        channels: Channels of an image.
        spacing: Millimetres between voxels along each array axis.
        voxels: Most voxels along the longest axis of an isotropic grid, in place of a spacing, by the number of axes.
        smooth: Whether it takes a smoothness.
    """

    sizes: tuple[int | None, ...] | None = None
    channels: int | None = None
    spacing: tuple[float, ...] | None = None
    voxels: dict[int, int] | None = None
    smooth: bool = False

    def lay_grid(self, image: Image) -> Grid:
        """Return the straight grid on which a network sees a pair: over the field of view of the fixed image.

        Where it takes but one size, of that size on the same middle. A network that has no spacing gets the finest of
        the fixed image. One that counts voxels sees what the fixed image shows, without the empty ground around it.
        """
        fixed = image.grid
        if self.sizes is not None and len(self.sizes) != fixed.ndim:
            raise ShapeError(
                f"A network registers images of as many axes as it was made for, {len(self.sizes)}. Received: a fixed "
                f"image of shape {fixed.shape}. Take another model."
            )
        finest = finest_spacing(fixed)
        spacing: Sequence[float] | float = finest
        if self.voxels is not None:
            fixed = frame_content(image)
            extent = np.abs(fixed.matrix) @ np.asarray(fixed.shape)
            spacing = max(finest, float(extent.max()) / self.voxels[fixed.ndim])
        elif self.spacing is not None:
            spacing = self.spacing
        whole = cover(fixed, spacing)
        if self.sizes is None or self.sizes == (None,) * fixed.ndim:
            return whole
        shape = [n if size is None else size for n, size in zip(whole.shape, self.sizes, strict=True)]
        return lay_in_middle(fixed, shape, spacing)


class Network(ABC):
    """A network behind one door: `view` says how it wants to see images.

    Args:
        view: That.
        name: What it is called in an error.
    """

    def __init__(self, view: View, name: str) -> None:
        self.view, self.name = view, name

    @abstractmethod
    def find(self, fixed: np.ndarray, moving: np.ndarray, smoothness: float) -> Any:
        """The displacement `(1, *spatial, ndim)` of prepared images, as it comes."""

    def run(self, fixed: np.ndarray, moving: np.ndarray, smoothness: float) -> np.ndarray:
        """Return the displacement `(1, *spatial, ndim)` float32 in voxels of images `(1, *spatial, channels)`."""
        found = np.asarray(self.find(fixed, moving, smoothness), dtype=np.float32)
        expected = (*fixed.shape[:-1], fixed.ndim - 2)
        if found.shape != expected:
            raise ShapeError(
                f"A network returns one vector for each voxel of the fixed image, a displacement of shape {expected}. "
                f"Received: {found.shape} of {self.name}. Resize what it finds inside of it."
            )
        if not np.isfinite(found).all():
            raise InputError(
                f"A displacement must be finite. Received: {int((~np.isfinite(found)).sum())} values that are NaN or "
                f"infinite, of {self.name}. Look at how it was trained."
            )
        return found

    def choose_smoothness(self, smoothness: float | None) -> float:
        """Return the smoothness that a network is given: the middle where nobody chose.

        Raises:
            OptionError: If one was chosen that the network does not take, or that is none.
        """
        if smoothness is None:
            return 0.5
        if not self.view.smooth:
            raise OptionError(
                f"A smoothness is for networks with an input of this name. Received: smoothness={smoothness}, "
                f"{self.name} without one. Leave it out, or train `keramorph.networks.ConditionalVoxelMorph`."
            )
        if not 0 <= smoothness <= 1:
            raise OptionError(f"A smoothness lies between 0 and 1. Received: smoothness={smoothness}. Take 0.5.")
        return float(smoothness)


class PlainNetwork(Network):
    """An `ArrayNetwork` behind that door.

    Args:
        network: The network.
    """

    def __init__(self, network: ArrayNetwork) -> None:
        view = View((None,) * network.ndim, channels=1, voxels={network.ndim: network.voxels})
        super().__init__(view, type(network).__name__)
        self.network = network

    def find(self, fixed: np.ndarray, moving: np.ndarray, smoothness: float) -> Any:
        """What it predicts."""
        return self.network.predict(fixed, moving)
