"""The layer that makes an image of thick slices."""

from __future__ import annotations

from typing import Any

import numpy as np

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.synthesis.axis_products import multiply_axis
from keramorph.synthesis.random_effect import RandomEffect
from keramorph.synthesis.random_layer import Range, between, broadcast_over

ops = keras.ops


@keras.saving.register_keras_serializable(package="keramorph")
class RandomSlices(RandomEffect):
    """Layer that returns images as if taken in thick slices along a random axis and interpolated afterwards.

    Called with an image `(batch, *spatial, channels)` of any real data type; the output is float32 and on the same
    grid. A slice holds the mean of what lies in it, tissues that meet there mixed (partial volume), and voxels are
    interpolated linearly between the middles of slices. Axis, thickness and the place of the first slice differ from
    image to image. With `training=False` the image is left as it is. No weights but the state of the random numbers.

    Args:
        thickness: Thickness of a slice in voxels: two limits between which that of each image is drawn, or the upper
            one, the lower being 1, which leaves the image as it is.
        probability: Share of the images that are changed.
        seed: Seed of the random numbers; None takes one at random.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If an option cannot take its value.
        ShapeError: If the image has not one to three spatial axes of known sizes.

    Example:
        >>> import numpy as np
        >>> image = np.full((1, 24, 20, 28, 1), 0.5, dtype="float32")
        >>> sliced = RandomSlices(thickness=(3.0, 5.0))(image)
        >>> bool(keras.ops.max(keras.ops.abs(sliced - 0.5)) < 1e-5)
        True

    References:
        Billot et al., "SynthSeg: Segmentation of brain MRI scans of any contrast and resolution without retraining",
        2023, doi:10.1016/j.media.2023.102789.
    """

    def __init__(
        self, *, thickness: Range = 4.0, probability: float = 0.5, seed: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(seed=seed, **kwargs)
        self.thickness = self.to_range("thickness", thickness, least=1.0)
        self.probability = self.to_share("probability", probability)

    def transform(self, image: Array) -> Array:
        """Image of thick slices."""
        sizes = self.require_sizes(image)
        share, lot, axes, start = self.draw_shares(4, ops.shape(image)[0])
        thickness = ops.where(lot < self.probability, between(self.thickness, share), 1.0)
        chosen = ops.floor(axes * len(sizes))
        for axis, size in enumerate(sizes):
            along = ops.where(ops.equal(chosen, float(axis)), ops.minimum(thickness, float(size)), 1.0)
            image = multiply_axis(image, _weigh(along, start * (along - 1.0), size), axis + 1)
        return image

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), "thickness": self.thickness, "probability": self.probability}


def _weigh(thickness: Array, start: Array, size: int) -> Array:
    """Matrices `(batch, size, size)` from voxels to slices and back.

    Slice j covers `thickness` voxels from `start + j * thickness` on, counted from the outer face of the first voxel,
    and is there if its middle lies in the image.
    """
    thickness, start = broadcast_over(thickness, 2), broadcast_over(start, 2)
    voxels = np.arange(size, dtype="float32")
    middle = ops.convert_to_tensor(voxels[:, None] + 0.5)
    first = ops.ceil(-start / thickness - 0.5)
    last = ops.maximum(ops.floor((size - start) / thickness - 0.5), first)
    place = ops.clip((middle - start) / thickness - 0.5, first, last)
    below = ops.floor(place)
    share = place - below
    face = ops.convert_to_tensor(voxels[None, :])

    def average(index: Array) -> Array:
        left = start + index * thickness
        covered = ops.minimum(face + 1.0, left + thickness) - ops.maximum(face, left)
        covered = ops.maximum(covered, 0.0)
        return covered / ops.sum(covered, axis=-1, keepdims=True)

    return (1.0 - share) * average(below) + share * average(ops.minimum(below + 1.0, last))
