"""What the layers of synthesis share: random numbers of their own, in float32, with a state that is saved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keramorph._keras import keras
from keramorph._typing import Array
from keramorph.errors import OptionError, ShapeError

Range = float | tuple[float, float]
"""What a number is drawn from, uniformly: its two limits, or the upper one alone."""


class RandomLayer(keras.layers.Layer):
    """A layer that draws by a seed generator of its own, anew in each call, and has nothing to train.

    The state of the generator is among the layer's `variables`, and is written wherever Keras saves weights: training
    that is resumed goes on with the numbers that would have come. Keras itself saves no seeds.

    Autocasting is off: in half precision labels are wrong from 2048 on, and positions by an eighth of a voxel from 128.

    Args:
        seed: Seed of the random numbers; None takes one at random.
        **kwargs: `name` and `dtype` of the Keras layer.
    """

    def __init__(self, *, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        if seed is not None and not (isinstance(seed, int) and seed >= 0):
            self.refuse_option("`seed` to be None or an integer of at least 0", seed=seed)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(derive_seeds(seed, 1)[0])
        self.built = True

    def draw_uniform(self, shape: Sequence[Any], limits: tuple[float, float] = (0.0, 1.0)) -> Array:
        """Numbers between two limits, float32."""
        return between(limits, keras.random.uniform(shape, dtype="float32", seed=self.seed_generator))

    def draw_shares(self, count: int, batch: Any) -> list[Array]:
        """As many arrays `(batch,)` of numbers between 0 and 1; from one draw, each of which XLA compiles by itself."""
        drawn = self.draw_uniform((count, batch))
        return [drawn[index] for index in range(count)]

    def draw_normal(self, shape: Sequence[Any]) -> Array:
        """Numbers of mean 0 and variance 1, float32."""
        return keras.random.normal(shape, dtype="float32", seed=self.seed_generator)

    def require_sizes(self, tensor: Any) -> tuple[int, ...]:
        """Spatial sizes of `(batch, *spatial, channels)`; raises `ShapeError` unless they are one to three known ones.

        Random fields are drawn on coarse grids, and how many points those have must be known in time.
        """
        shape = tuple(tensor.shape)
        if len(shape) not in (3, 4, 5) or None in shape[1:]:
            raise ShapeError(
                f"{type(self).__name__} expects a tensor (batch, *spatial, channels) with one to three spatial axes, "
                f"of known sizes. Received: shape={shape}. Add the axes that are missing, and name the sizes."
            )
        return tuple(int(n) for n in shape[1:-1])

    def require_labels(self, labels: Any) -> tuple[int, ...]:
        """Spatial sizes of label maps `(batch, *spatial, 1)`; raises `ShapeError` where they are none."""
        sizes = self.require_sizes(labels)
        if labels.shape[-1] != 1:
            raise ShapeError(
                f"{type(self).__name__} expects label maps (batch, *spatial, 1) of integers. Received: "
                f"shape={tuple(labels.shape)}. Take the argmax of one-hot labels."
            )
        return sizes

    def to_count(self, name: str, value: int, *, least: int) -> int:
        """An option that counts something."""
        if int(value) != value or value < least:
            self.refuse_option(f"`{name}` to be an integer of at least {least}", **{name: value})
        return int(value)

    def to_range(self, name: str, value: Any, *, least: float = 0.0) -> tuple[float, float]:
        """Two limits of an option; a number alone is the upper one, and the lower is the value that does nothing."""
        limits = (least, value) if isinstance(value, (int, float)) else tuple(value)
        if len(limits) != 2 or not least <= limits[0] <= limits[1] < math.inf:
            expected = f"`{name}` to be a number, or two in rising order, of at least {least:g}"
            self.refuse_option(expected, **{name: value})
        return float(limits[0]), float(limits[1])

    def to_number(self, name: str, value: float, *, least: float = 0.0) -> float:
        """An option that is one number, not below the value that does nothing."""
        if not least <= value < math.inf:
            self.refuse_option(f"`{name}` to be a number of at least {least:g}", **{name: value})
        return float(value)

    def to_share(self, name: str, value: float) -> float:
        """An option between 0 and 1."""
        if not 0 <= value <= 1:
            self.refuse_option(f"`{name}` to lie between 0 and 1", **{name: value})
        return float(value)

    def to_scales(self, scales: Sequence[float]) -> tuple[float, ...]:
        """Voxels between the nodes of random fields, one or more."""
        if not scales or not all(1 <= scale < math.inf for scale in scales):
            self.refuse_option("`scales` to be one or more numbers of at least 1 voxel", scales=scales)
        return tuple(float(scale) for scale in scales)

    def refuse_option(self, expected: str, **received: Any) -> None:
        """Raise `OptionError` saying what was expected and what came."""
        values = ", ".join(f"{name}={value!r}" for name, value in received.items())
        raise OptionError(f"{type(self).__name__} expects {expected}. Received: {values}.")

    def save_own_variables(self, store: Any) -> None:
        """Write the state of the random numbers."""
        store["seed"] = keras.ops.convert_to_numpy(self.seed_generator.state.value)

    def load_own_variables(self, store: Any) -> None:
        """Go on with the random numbers where they were when the state was written."""
        self.seed_generator.state.assign(np.asarray(store["seed"]))

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the layer again."""
        return {**super().get_config(), "seed": self.seed}


def derive_seeds(seed: int | None, count: int) -> list[int | None]:
    """Seeds far from one another, made of one.

    On PyTorch, Keras adds the number of the draw to the seed: of two layers with the seeds 1 and 2, the one would draw
    what the other has drawn a moment before.
    """
    if seed is None:
        return [None] * count
    # 30 bits: some backends keep seeds as signed integers.
    return [int(word) >> 2 for word in np.random.SeedSequence(seed).generate_state(count)]


def between(limits: tuple[float, float], share: Array) -> Array:
    """The number that lies a share of the way from one limit to the other."""
    return limits[0] + (limits[1] - limits[0]) * share


def broadcast_over(values: Array, axes: int) -> Array:
    """Values `(batch,)` with as many axes of size 1 behind."""
    return keras.ops.reshape(values, (-1,) + (1,) * axes)
