"""The layer that makes a pair of images to learn registration from, out of one label map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keramorph import ops
from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.synthesis.image_from_labels import ImageFromLabels
from keramorph.synthesis.random_affine import RandomAffine, divide_affine, move_by_affine
from keramorph.synthesis.random_deformation import RandomDeformation, integrate
from keramorph.synthesis.random_layer import RandomLayer, derive_seeds

_PARTS = ("image", "deformation", "affine")


@keras.saving.register_keras_serializable(package="keramorph")
class PairFromLabels(RandomLayer):
    """Layer that makes a fixed and a moving image of one label map, each deformed and painted in its own way.

    Called with label maps `(batch, *spatial, 1)`, integers from 0 up: those of `RandomShapes`, or
    segmentations. It is drawn in training and out of it. The output is a dictionary, all float32:

    - `fixed`, `moving`: images `(batch, *spatial, 1)` from 0 to 1, of independent contrasts;
    - `fixed_labels`, `moving_labels`: their labels, one channel each, `(batch, *spatial, scored)`, 0 or 1;
    - `displacement`: the true one, `(batch, *spatial, ndim)` in voxels, up to its interpolation. Where it stays inside
      the grid, the moving labels warped by it are the fixed ones.

    A network that sees the two images alone and is trained to overlap the labels learns to register whatever the
    contrast. No weights but the state of the random numbers.

    Args:
        image: Layer that paints both images; or the number of labels, one more than the largest, for an
            `ImageFromLabels` of as many.
        scored: Labels that get a channel, in the order of the channels; None takes all.
        deformation: What either map is deformed by; None takes `RandomDeformation()`.
        affine: What either map is moved by besides; None leaves affine maps out.
        alike: Share of the pairs whose two images have one contrast, before the noise and the effects of each.
        seed: Seed of the random numbers, from which those of the layers made here are derived; None takes random ones.
        **kwargs: `name` and `dtype` of the Keras layer.

    Raises:
        OptionError: If a scored label is not one of the labels.
        ShapeError: If the label map has not one channel and one to three spatial axes of known sizes.

    Example:
        >>> import numpy as np
        >>> labels = np.arange(32 * 40).reshape(1, 32, 40, 1) // 320
        >>> pair = PairFromLabels(4, scored=(1, 2, 3))(labels)
        >>> {name: tuple(tensor.shape) for name, tensor in sorted(pair.items())}
        {'displacement': (1, 32, 40, 2), 'fixed': (1, 32, 40, 1), 'fixed_labels': (1, 32, 40, 3),
         'moving': (1, 32, 40, 1), 'moving_labels': (1, 32, 40, 3)}

    References:
        Hoffmann et al., "SynthMorph: Learning Contrast-Invariant Registration Without Acquired Images", 2022,
        doi:10.1109/TMI.2021.3116879.
    """

    def __init__(
        self,
        image: ImageFromLabels | int,
        *,
        scored: Sequence[int] | None = None,
        deformation: RandomDeformation | None = None,
        affine: RandomAffine | None = None,
        alike: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed=seed, **kwargs)
        _, *seeds = derive_seeds(seed, 3)
        self.image = image if isinstance(image, ImageFromLabels) else ImageFromLabels(image, seed=seeds[0])
        self.num_labels = self.image.num_labels
        self.alike = self.to_share("alike", alike)
        self.scored = tuple(range(self.num_labels)) if scored is None else tuple(int(label) for label in scored)
        if not self.scored or not all(0 <= label < self.num_labels for label in self.scored):
            expected = f"`scored` to be one or more labels from 0 to {self.num_labels - 1}"
            self.refuse_option(expected, scored=scored)
        self.deformation = RandomDeformation(seed=seeds[1]) if deformation is None else deformation
        self.affine = affine

    def call(self, labels: Any) -> dict[str, Array]:
        """The pair, as a dictionary."""
        sizes = self.require_labels(labels)
        batch = keras.ops.shape(labels)[0]
        labels = keras.ops.cast(labels, "int32")
        velocities = [self.deformation.draw_coarsely(batch, sizes) for _ in range(2)]
        to_fixed, to_moving = (integrate(velocity, sizes) for velocity in velocities)
        # The fixed map is the label map at phi_f(x), the moving one that at phi_m(x): what takes the moving map to the
        # fixed one is the inverse of phi_m after phi_f. An affine map comes after the deformation, its inverse before.
        from_label_map, between = integrate(-velocities[1], sizes), to_fixed
        if self.affine is not None:
            matrices = [self.affine(labels) for _ in range(2)]
            between = move_by_affine(divide_affine(*matrices), to_fixed)
            to_fixed, to_moving = (move_by_affine(*one) for one in zip(matrices, (to_fixed, to_moving), strict=True))
        fixed, moving = (ops.warp(labels, displacement, order=0) for displacement in (to_fixed, to_moving))
        contrasts = self._draw_contrasts(batch)
        return {
            "fixed": self.image.paint(fixed, contrasts[0]),
            "moving": self.image.paint(moving, contrasts[1]),
            "fixed_labels": self._separate(fixed),
            "moving_labels": self._separate(moving),
            "displacement": ops.compose(from_label_map, between),
        }

    def compute_output_shape(self, input_shape: Any) -> dict[str, tuple[int | None, ...]]:
        """Shapes of what the dictionary holds."""
        image, grid = tuple(input_shape), tuple(input_shape[:-1])
        labels = (*grid, len(self.scored))
        field = (*grid, len(grid) - 1)
        return {
            "fixed": image,
            "moving": image,
            "fixed_labels": labels,
            "moving_labels": labels,
            "displacement": field,
        }

    def compute_output_spec(self, labels: Any) -> Any:
        """Symbolic outputs: float32 whatever the data type policy."""
        self.require_labels(labels)
        shapes = self.compute_output_shape(labels.shape)
        return {name: keras.KerasTensor(shape, dtype="float32") for name, shape in shapes.items()}

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        parts = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in _PARTS}
        return {**super().get_config(), "scored": self.scored, "alike": self.alike, **parts}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PairFromLabels:
        """The layer of a configuration."""
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in _PARTS}
        return cls(**{**config, **parts})

    def _draw_contrasts(self, batch: Any) -> tuple[Array, Array]:
        """Contrast of the fixed images, and of the moving ones."""
        fixed, moving = (self.image.draw_contrast(batch) for _ in range(2))
        if not self.alike:
            return fixed, moving
        alike = self.draw_uniform((batch, 1, 1)) < self.alike
        return fixed, keras.ops.where(alike, fixed, moving)

    def _separate(self, labels: Array) -> Array:
        """One channel for each scored label, by a table with a row for each label: far faster than comparing."""
        table = np.eye(self.num_labels, dtype="float32")[:, list(self.scored)]
        return keras.ops.take(table, keras.ops.clip(labels[..., 0], 0, self.num_labels - 1), axis=0)
