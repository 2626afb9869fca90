"""The slice of the demo, and pairs made of it whose true deformation is known."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from keramorph import ops

SIZE = 256
CROP = (slice(20, 220), slice(12, 212))
"""The 200 x 200 pixels that hold the head."""
AIR = 0.04
"""Nothing brighter than this, smoothed, is air in any of the contrasts."""
COARSE = 4
"""Deformations are drawn on a grid coarser by this factor: they are smooth, and it is 16 times faster."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A fixed and a moving picture with the displacement that truly aligns them.

    Args:
        fixed: Picture `(rows, columns)`, float32, about 0 to 1.
        moving: The same anatomy before it was deformed, in another contrast.
        displacement: True displacement `(rows, columns, 2)` in pixels: `fixed(x)` shows what `moving(x + u(x))` shows.
    """

    fixed: np.ndarray
    moving: np.ndarray
    displacement: np.ndarray

    @functools.cached_property
    def head(self) -> np.ndarray:
        """Mask `(rows, columns)` of the head in the fixed picture: elsewhere there is nothing to align."""
        return find_head(self.fixed)

    def map_errors(self, displacement: np.ndarray) -> np.ndarray:
        """Endpoint errors `(rows, columns)` in pixels: how far off each pixel is read."""
        return np.linalg.norm(displacement - self.displacement, axis=-1)


@dataclass(frozen=True, eq=False)
class Answer:
    """What somebody makes of a scene.

    Args:
        scene: The pair, with its truth.
        displacement: The displacement that was found, `(rows, columns, 2)` in pixels.
        moved: The moving picture, moved by it, `(rows, columns)`.
        seconds: Time that it took.
    """

    scene: Scene
    displacement: np.ndarray
    moved: np.ndarray
    seconds: float

    @property
    def endpoint_errors(self) -> tuple[float, float]:
        """Mean endpoint error inside the head before and after, in pixels."""
        fields = (np.zeros_like(self.displacement), self.displacement)
        before, after = (float(self.scene.map_errors(field)[self.scene.head].mean()) for field in fields)
        return before, after

    @property
    def image_errors(self) -> tuple[float, float]:
        """1 minus the correlation of the pictures inside the head, before and after: contrasts differ by intent."""
        before, after = (
            1 - float(np.corrcoef(self.scene.fixed[self.scene.head], picture[self.scene.head])[0, 1])
            for picture in (self.scene.moving, self.moved)
        )
        return before, after


def read_slice() -> np.ndarray:
    """Return the MRI slice that installs with matplotlib: `(256, 256)`, float32, from 0 to 1.

    Example:
        >>> read_slice().shape
        (256, 256)
    """
    from matplotlib.cbook import get_sample_data

    content = get_sample_data("s1045.ima.gz", asfileobj=True).read()  # type: ignore[union-attr]
    values = np.frombuffer(content, dtype=">u2").reshape(SIZE, SIZE)
    return (values / values.max()).astype(np.float32)


def make_scene(anatomy: np.ndarray, generator: np.random.Generator, *, largest: float = 8.0) -> Scene:
    """Return a pair made of one picture: bent twice, by smooth deformations without folds, and seen in two contrasts.

    Args:
        anatomy: Picture `(rows, columns)`, float32 from 0 to 1; sizes that can be divided by 4.
        generator: Source of chance.
        largest: Pixels by which the true displacement moves the point that it moves most, about.

    Returns:
        The pair with its truth.

    Example:
        >>> scene = make_scene(read_slice()[CROP], np.random.default_rng(0))
        >>> bool(np.linalg.norm(scene.displacement, axis=-1).max() > 4)
        True
    """
    first = draw_displacement(generator, anatomy.shape, largest=largest / 2)
    second = draw_displacement(generator, anatomy.shape, largest=largest)
    moving = bend(anatomy, first)
    fixed = bend(moving, second)
    return Scene(change_contrast(fixed, generator), change_contrast(moving, generator), second)


def bend(picture: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Return a picture `(rows, columns)` moved by a displacement `(rows, columns, 2)` in pixels."""
    return np.asarray(ops.warp(picture[None, ..., None], displacement[None]))[0, ..., 0]


def draw_displacement(generator: np.random.Generator, shape: tuple[int, ...], *, largest: float) -> np.ndarray:
    """Return a random diffeomorphic displacement `(*shape, ndim)` in voxels, smooth over about 20 voxels.

    Args:
        generator: Source of chance.
        shape: Number of voxels along each axis.
        largest: Voxels of the largest velocity; the displacement that it integrates to reaches about as far.

    Example:
        >>> displacement = draw_displacement(np.random.default_rng(0), (64, 64), largest=5.0)
        >>> bool(ops.jacobian_determinant(displacement[None]).min() > 0)
        True
    """
    coarse = tuple(n // COARSE for n in shape)
    noise = generator.standard_normal((1, *coarse, len(shape))).astype(np.float32)
    velocity = ops.gaussian(noise, sigma=generator.uniform(14.0, 24.0) / COARSE)
    velocity *= largest / COARSE / np.linalg.norm(velocity, axis=-1).max()
    return np.asarray(ops.resize_displacement(ops.exponentiate(velocity), shape=shape))[0]


def change_contrast(picture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the picture with another gamma, a shading across it and some noise."""
    gamma = np.exp(generator.uniform(-0.35, 0.35))
    rows, columns = (np.linspace(-1, 1, n, dtype=np.float32) for n in picture.shape)
    slope = generator.uniform(-0.25, 0.25, size=2)
    shading = 1 + slope[0] * rows[:, None] + slope[1] * columns[None, :]
    noise = 0.01 * generator.standard_normal(picture.shape)
    return (np.clip(picture, 0, 1) ** gamma * shading + noise).astype(np.float32)


def find_head(picture: np.ndarray) -> np.ndarray:
    """Return the mask of the head: the largest part that is not as dark as air, without holes; else everything."""
    parts, count = ndimage.label(ndimage.gaussian_filter(picture, 2.0) > AIR)
    if not count:
        return np.ones(picture.shape, bool)
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return ndimage.binary_fill_holes(parts == largest)
