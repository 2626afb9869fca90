"""The layer that paints an image of random contrast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.synthesis.random_bias import RandomBias
from keramorph.synthesis.random_blur import RandomBlur
from keramorph.synthesis.random_effect import RandomEffect, scale_to_unit
from keramorph.synthesis.random_field_of_view import RandomFieldOfView
from keramorph.synthesis.random_gamma import RandomGamma
from keramorph.synthesis.random_layer import RandomLayer, Range, between, broadcast_over, derive_seeds
from keramorph.synthesis.random_lesions import RandomLesions
from keramorph.synthesis.random_slices import RandomSlices

ops = keras.ops


@keras.saving.register_keras_serializable(package="keramorph")
class ImageFromLabels(RandomLayer):
    """Layer that paints an image of random contrast from a label map, another contrast in each image and each call.

    Called with label maps `(batch, *spatial, 1)`, integers from 0 to `num_labels - 1` of any data type; larger ones
    count as the largest. The output is `(batch, *spatial, 1)`, float32, from 0 to 1. Each label of each image gets a
    mean and a standard deviation, by which its voxels are drawn; then come the effects, and the image is scaled. It
    is drawn in training and out of it. No weights but the state of the random numbers.

    By default the effects are lesions in some images, a blur, a bias field, thick slices in some images, a bent scale
    and a cut field of view in some images. Blur and slices mix the tissues along borders (partial volume).

    Args:
        num_labels: One more than the largest label.
        mean: Limits of the mean intensity of a label.
        sd: Limits of the standard deviation of the intensity within a label.
        black_background: Share of the images in which label 0 is black, as where the rest was masked out.
        effects: Layers that the image passes, called with `training=True`: those of this package or others; None
            takes those above, an empty list none.
        seed: Seed of the random numbers, from which those of the effects made here are derived; None takes random ones.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If an option cannot take its value.
        ShapeError: If the label map has not one channel and one to three spatial axes of known sizes.

    Example:
        >>> import numpy as np
        >>> labels = np.arange(64).reshape(1, 8, 8, 1) // 16
        >>> image = ImageFromLabels(4)(labels)
        >>> tuple(image.shape), float(keras.ops.min(image)), float(keras.ops.max(image))
        ((1, 8, 8, 1), 0.0, 1.0)

    References:
        Hoffmann et al., "SynthMorph: Learning Contrast-Invariant Registration Without Acquired Images", 2022,
        doi:10.1109/TMI.2021.3116879. Billot et al., "SynthSeg: Segmentation of brain MRI scans of any contrast and
        resolution without retraining", 2023, doi:10.1016/j.media.2023.102789.
    """

    def __init__(
        self,
        num_labels: int,
        *,
        mean: Range = (0.1, 0.9),
        sd: Range = (0.02, 0.1),
        black_background: float = 0.2,
        effects: Sequence[Any] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed=seed, **kwargs)
        self.num_labels = self.to_count("num_labels", num_labels, least=1)
        self.mean = self.to_range("mean", mean)
        self.sd = self.to_range("sd", sd)
        self.black_background = self.to_share("black_background", black_background)
        self.effects = _make_effects(seed) if effects is None else list(effects)

    def call(self, labels: Any) -> Array:
        """Image of the label map."""
        self.require_labels(labels)
        return self.paint(labels, self.draw_contrast(ops.shape(labels)[0]))

    def draw_contrast(self, batch: Any) -> Array:
        """Mean and standard deviation of each label, `(batch, num_labels, 2)`.

        Args:
            batch: Number of images.
        """
        shares = self.draw_uniform((batch, 2 * self.num_labels + 1))
        mean = between(self.mean, shares[:, : self.num_labels])
        deviation = between(self.sd, shares[:, self.num_labels : -1])
        masked = shares[:, -1:] < self.black_background
        masked = ops.logical_and(masked, ops.arange(self.num_labels) == 0)
        return ops.stack([ops.where(masked, 0.0, values) for values in (mean, deviation)], axis=-1)

    def paint(self, labels: Any, contrast: Array) -> Array:
        """Images in given contrasts, with noise and effects of their own, scaled.

        Args:
            labels: Label maps `(batch, *spatial, 1)`.
            contrast: What `draw_contrast` returned.
        """
        batch, ndim = ops.shape(labels)[0], len(labels.shape) - 2
        # One table of all images, so that a voxel looks its label up by one number.
        first = broadcast_over(ops.arange(batch) * self.num_labels, ndim + 1)
        index = ops.clip(ops.cast(labels, "int32"), 0, self.num_labels - 1) + ops.cast(first, "int32")
        mean, deviation = (ops.take(ops.reshape(contrast[..., k], (-1,)), index) for k in range(2))
        image = mean + deviation * self.draw_normal(ops.shape(labels))
        for effect in self.effects:
            image = effect(image, training=True)
        return scale_to_unit(image)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Shape of the image: that of the label map."""
        return tuple(input_shape)

    def compute_output_spec(self, labels: Any) -> Any:
        """Symbolic output: float32 whatever the data type policy."""
        self.require_labels(labels)
        return keras.KerasTensor(labels.shape, dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        own = {
            "num_labels": self.num_labels,
            "mean": self.mean,
            "sd": self.sd,
            "black_background": self.black_background,
            "effects": [keras.saving.serialize_keras_object(effect) for effect in self.effects],
        }
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ImageFromLabels:
        """The layer of a configuration."""
        effects = [keras.saving.deserialize_keras_object(effect) for effect in config["effects"]]
        return cls(**{**config, "effects": effects})


def _make_effects(seed: int | None) -> list[RandomEffect]:
    # The first of the seeds is the layer's own.
    _, *seeds = derive_seeds(seed, 7)
    return [
        RandomLesions(probability=0.1, seed=seeds[0]),
        RandomBlur(sigma=1.0, seed=seeds[1]),
        RandomBias(sd=0.3, scale=40.0, seed=seeds[2]),
        RandomSlices(thickness=4.0, probability=0.25, seed=seeds[3]),
        RandomGamma(sd=(0.25, 0.25), seed=seeds[4]),
        RandomFieldOfView(lost=0.3, probability=0.25, seed=seeds[5]),
    ]
