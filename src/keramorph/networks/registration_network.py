"""What the networks share: two images in, a dictionary of the moved image and of its displacement out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from keramorph._keras import keras
from keramorph.errors import OptionError
from keramorph.layers import Exponentiate, ResizeDisplacement, Warp
from keramorph.networks.padding import CropToMatch

Mode = Literal["displacement", "velocity"]
"""What a network predicts: the displacement itself, or a stationary velocity that is integrated."""

FIELD: dict[str, Any] = {"data_format": "channels_last", "dtype": "float32"}
"""Options of the layers that handle fields: never below float32, whatever the policy of the network."""


class RegistrationNetwork(keras.Model):
    """A functional model that is stored as the arguments which made it, not as its graph.

    Args:
        inputs: Symbolic inputs, `fixed` and `moving` the first of them.
        outputs: Symbolic outputs by name, `moved` and `displacement` among them.
        config: Arguments of the subclass, from which `from_config` makes the model again.
        **kwargs: `name` of the Keras model.
    """

    def __init__(self, inputs: list[Any], outputs: dict[str, Any], config: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self._config = config

    def get_config(self) -> dict[str, Any]:
        """Configuration from which `from_config` makes the model again."""
        return {**self._config, "name": self.name}


def make_images(shape: tuple[int | None, ...]) -> tuple[Any, Any]:
    """Symbolic images, fixed and moving."""
    return keras.Input(shape, name="fixed"), keras.Input(shape, name="moving")


def take_policy(kwargs: dict[str, Any]) -> Any:
    """Data type policy that the keyword arguments of a model name, taken out of them, or else the global one."""
    return keras.dtype_policies.get(kwargs.pop("dtype", None) or keras.config.dtype_policy())


def check_mode(model: str, mode: Any) -> None:
    """Raise `OptionError` unless the mode is one of the two."""
    if mode not in get_args(Mode):
        raise OptionError(f"{model} expects `mode` to be one of {get_args(Mode)}. Received: mode={mode!r}.")


def check_counts(model: str, **counts: int | Sequence[int]) -> None:
    """Raise `OptionError` unless each option is a whole number of at least 1, or some of them."""
    for name, count in counts.items():
        values = list(count) if isinstance(count, (list, tuple)) else [count]
        if not values or not all(isinstance(value, int) and value >= 1 for value in values):
            raise OptionError(f"{model} expects `{name}` to be at least 1, everywhere. Received: {name}={count!r}.")


def integrate(field: Any, steps: int) -> Any:
    """Displacement of a velocity that is integrated at half its resolution, where it is in the layer `velocity`."""
    velocity = ResizeDisplacement(scale=0.5, **FIELD, name="velocity")(field)
    displacement = Exponentiate(steps=steps, **FIELD, name="integrated")(velocity)
    return ResizeDisplacement(scale=2.0, **FIELD, name="full_resolution")(displacement)


def move(fixed: Any, moving: Any, field: Any) -> dict[str, Any]:
    """Outputs of a network whose field lies on the padded grid: the displacement cropped, and what it moves."""
    displacement = CropToMatch(**FIELD, name="displacement")([field, fixed])
    return {"moved": Warp(**FIELD, name="moved")([moving, displacement]), "displacement": displacement}


def predict(model: str, network: Any, fixed: Any, moving: Any) -> dict[str, Any]:
    """Outputs of a network inside another; raises `OptionError` where it does not register images."""
    inputs = len(network.inputs) if isinstance(network, keras.Model) else 0
    outputs = network([fixed, moving]) if inputs == 2 else None
    if not isinstance(outputs, dict) or not {"moved", "displacement"} <= set(outputs):
        raise OptionError(
            f"{model} is made of networks that are called with [fixed, moving] and return a dictionary of `moved` and "
            f"`displacement`. Received: network={network!r}. Take one of keramorph.networks, VoxelMorph for example."
        )
    return outputs
