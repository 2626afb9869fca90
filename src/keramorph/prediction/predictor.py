"""Two images of any size and place in, the displacement that a network finds between them out, in millimetres."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keramorph.errors import ArrayTypeError, OptionError, ShapeError
from keramorph.io.keras_models import load_model
from keramorph.prediction.keras_network import KerasNetwork, is_keras_model
from keramorph.prediction.network import ArrayNetwork, Network, PlainNetwork
from keramorph.prediction.shipped_network import BUILTIN, ShippedNetwork
from keramorph.prediction.tiles import ALIGNED, predict_by_tiles
from keramorph.preparation import prepare_image
from keramorph.space import Grid, Image
from keramorph.transforms import AffineTransform, DisplacementTransform, from_voxel_displacement

_SMALLEST_TILE = 2 * ALIGNED


class Prepared(NamedTuple):
    """A pair as a network sees it: both images `(1, *grid.shape, channels)` on one grid, the moving one aligned."""

    fixed: np.ndarray
    moving: np.ndarray
    grid: Grid

    def flip(self, axis: int) -> Prepared:
        """Both images mirrored along a spatial axis; the grid tells nothing of it."""
        return Prepared(np.flip(self.fixed, axis + 1), np.flip(self.moving, axis + 1), self.grid)

    def swap(self) -> Prepared:
        """The same pair the other way round."""
        return Prepared(self.moving, self.fixed, self.grid)


class Predictor:
    """A trained network that registers two images of any size, spacing, orientation and position by itself.

    Both images are brought onto the grid that the network wants: straight, with the spacing at which it was trained,
    over the field of view of the fixed image. The moving one is brought there through an affine map where one is given.
    Intensities are scaled to [0, 1] as in training.

    A `RegistrationModel` with `preparation=` tells the spacing. A network that tells none sees voxels of the finest
    spacing of the fixed image. One that takes a single size gets that, laid on the middle of the fixed image; where
    the image shows more, the displacement at the edge goes on.

    Args:
        model: `"builtin"` for the network that comes with the package, in 2-D and 3-D, which needs no framework; or the
            path of a `.keras` file; or a Keras model: a `RegistrationModel`, or any network that is called with
            `[fixed, moving]`, or with a dictionary of them, and returns a dictionary with the `displacement` in voxels;
            or an object that needs no framework, as below: it has `ndim`, the number of axes, `voxels`, how many at
            most of an isotropic grid lie along the longest axis of what the fixed image shows, and `predict`, which
            takes two images `(1, *spatial, 1)` float32 and returns the displacement `(1, *spatial, ndim)`. It does not
            see the empty ground around what the fixed image shows.
        tile: Longest edge in voxels, a multiple of 16, of the parts in which a larger image is seen one by one, so that
            memory stays within bounds. They overlap by a quarter, and their displacements fade into each other. None
            for the whole at once. A network that takes a single size sees all of that.
        smoothness: From 0 to 1, for a network that takes one, wherever a prediction names no other; None for 0.5.

    Raises:
        ArrayTypeError: If the model is none of these.
        FileError: If the file is missing or does not hold such a model.
        OptionError: If an option cannot take its value.

    Example:
        >>> class Shift:
        ...     ndim, voxels = 2, 16
        ...
        ...     def predict(self, fixed, moving):
        ...         return np.ones((*fixed.shape[:-1], 2), "float32")
        >>> image = Image(np.eye(32)[..., None], Grid.from_spacing((32, 32), 0.5))
        >>> transform = Predictor(Shift()).predict(image, image)
        >>> transform.grid.shape, transform.apply_points([2.0, 3.0]).tolist()
        ((16, 16), [3.0, 4.0])
    """

    def __init__(self, model: Any, *, tile: int | None = None, smoothness: float | None = None) -> None:
        if tile is not None and (tile % ALIGNED or tile < _SMALLEST_TILE):
            raise OptionError(
                f"`tile` is a multiple of {ALIGNED}, and at least {_SMALLEST_TILE}. Received: tile={tile!r}. Take 128 "
                "for volumes."
            )
        self.tile = tile
        self.network = _open(model)
        self.smoothness = smoothness
        self.choose_smoothness(None)

    def predict(
        self, fixed: Image, moving: Image, *, matrix: np.ndarray | None = None, smoothness: float | None = None
    ) -> DisplacementTransform:
        """Return the displacement from fixed to moving points that the network finds.

        Args:
            fixed: Fixed image.
            moving: Moving image.
            matrix: Homogeneous matrix `(ndim + 1, ndim + 1)` in millimetres, from fixed to moving points, that aligns
                the images beforehand: a point goes to `matrix @ (p + u(p))`. None where their headers do.
            smoothness: From 0 to 1, for a network that takes one; None for the predictor's own.

        Returns:
            u, on the grid on which the network saw the images.

        Raises:
            InputError: If an image has no contrast, or the network finds what is no displacement.
            OptionError: If there is a smoothness that the network does not take.
            ShapeError: If the images do not have the axes or the channels that the network takes.
        """
        chosen = self.choose_smoothness(smoothness)
        pair = self.prepare(fixed, moving, matrix=matrix)
        return to_transform(self.run(pair, chosen), pair.grid)

    def prepare(self, fixed: Image, moving: Image, *, matrix: np.ndarray | None = None) -> Prepared:
        """Return both images as the network is going to see them.

        Args:
            fixed: Fixed image.
            moving: Moving image.
            matrix: As for `predict`.
        """
        if fixed.grid.ndim != moving.grid.ndim:
            raise ShapeError(
                f"Fixed and moving image must have the same number of axes. Received: fixed of shape "
                f"{fixed.grid.shape}, moving of shape {moving.grid.shape}. Compare slices, or volumes."
            )
        grid = self.network.view.lay_grid(fixed)
        still = np.eye(grid.ndim + 1)

        def see(image: Image, onto: np.ndarray, name: str) -> np.ndarray:
            return prepare_image(self._choose_channels(image, name), grid, AffineTransform(onto), name=name)[None]

        onto = still if matrix is None else matrix
        return Prepared(see(fixed, still, "fixed image"), see(moving, onto, "moving image"), grid)

    def choose_smoothness(self, smoothness: float | None) -> float:
        """Return the smoothness of a prediction that names this one, or None.

        Raises:
            OptionError: If the network does not take it.
        """
        return self.network.choose_smoothness(self.smoothness if smoothness is None else smoothness)

    def run(self, pair: Prepared, smoothness: float) -> np.ndarray:
        """Return the displacement `(1, *spatial, ndim)` in voxels of a prepared pair."""

        def find(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
            return self.network.run(np.ascontiguousarray(fixed), np.ascontiguousarray(moving), smoothness)

        sizes = self.network.view.sizes or (None,) * pair.grid.ndim
        if self.tile is None or max(pair.grid.shape) <= self.tile or any(sizes):
            return find(pair.fixed, pair.moving)
        return predict_by_tiles(find, pair.fixed, pair.moving, tile=self.tile)

    def _choose_channels(self, image: Image, name: str) -> Image:
        """The channels that the network takes: those of the image, or their mean for a network of one."""
        wanted = self.network.view.channels
        if wanted is None or wanted == image.channels:
            return image
        if wanted == 1:
            return Image(image.array.mean(axis=-1, dtype=np.float32, keepdims=True), image.grid)
        raise ShapeError(
            f"A network takes images with as many channels as it was made for, {wanted}. Received: a {name} with "
            f"{image.channels}, {self.network.name}. Join or leave out channels."
        )


def to_transform(displacement: np.ndarray, grid: Grid) -> DisplacementTransform:
    """Return a displacement `(1, *grid.shape, ndim)` in voxels as a transform in millimetres."""
    return DisplacementTransform(from_voxel_displacement(displacement[0], grid), grid)


def _open(model: Any) -> Network:
    if isinstance(model, str) and model == BUILTIN:
        return ShippedNetwork()
    if isinstance(model, str | Path):
        return KerasNetwork(load_model(Path(model)), name=str(model))
    if is_keras_model(model):
        return KerasNetwork(model)
    if isinstance(model, ArrayNetwork):
        return PlainNetwork(model)
    raise ArrayTypeError(
        f'A model is "{BUILTIN}", the path of a .keras file, a Keras model, or an object with `ndim`, `voxels` and '
        "`predict`. "
        f"Received: model of type {type(model).__name__}. Save one with `model.save('name.keras')`."
    )
