"""A Keras model that registers, with or without the model around it that trained it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from keramorph.errors import ArrayTypeError, InputError
from keramorph.prediction.network import Network, View


def is_keras_model(model: Any) -> bool:
    """Whether something is a Keras model; asks nobody to import Keras, without which nothing is one."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.Model)


class KerasNetwork(Network):
    """A Keras model that is called with two images and returns a dictionary with the `displacement`.

    Of a `RegistrationModel` the network within is taken, and the spacing from what it tells of its preparation.

    Args:
        model: The model.
        name: What it is called in an error; None for its own name.

    Raises:
        ArrayTypeError: If it takes other things than two images, and a smoothness.
    """

    def __init__(self, model: Any, name: str | None = None) -> None:
        preparation = getattr(model, "preparation", None)
        self.network = model.network if hasattr(model, "preparation") else model
        inputs = list(getattr(self.network, "inputs", None) or ())
        names = [tensor.name for tensor in inputs]
        self.takes = names if {"fixed", "moving"} <= set(names) else None
        images = [tensor for tensor in inputs if tensor.name in ("fixed", "moving")] if self.takes else inputs
        if inputs and (len(images) != 2 or not set(names) - {tensor.name for tensor in images} <= {"smoothness"}):
            raise ArrayTypeError(
                "A model that registers takes two images, and no more than a smoothness besides. Received: "
                f"{self.network.name} with the inputs {', '.join(names)}. Hand over the network for images alone."
            )
        shape = tuple(images[0].shape[1:]) if images else None
        view = View(
            sizes=None if shape is None else shape[:-1],
            channels=None if shape is None else shape[-1],
            spacing=None if preparation is None else preparation.spacing,
            smooth="smoothness" in names,
        )
        super().__init__(view, f"the model {name or model.name}")

    def find(self, fixed: np.ndarray, moving: np.ndarray, smoothness: float) -> Any:
        """What it predicts, without a graph for gradients."""
        given = {"fixed": fixed, "moving": moving, "smoothness": np.full((1, 1), smoothness, np.float32)}
        inputs = [fixed, moving] if self.takes is None else {name: given[name] for name in self.takes}
        outputs = self.network.predict_on_batch(inputs)
        if not isinstance(outputs, dict) or "displacement" not in outputs:
            found = sorted(outputs) if isinstance(outputs, dict) else type(outputs).__name__
            raise InputError(
                f"A model that registers returns a dictionary with the 'displacement'. Received: {found} of "
                f"{self.name}. Build it with keras.Model(inputs, {{'displacement': ..., 'moved': ...}})."
            )
        return outputs["displacement"]
