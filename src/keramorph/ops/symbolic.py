"""An operation as a node of a functional Keras model, saved and loaded with it."""

from __future__ import annotations

import importlib
from typing import Any

from keramorph._keras import keras
from keramorph._typing import Array


@keras.saving.register_keras_serializable(package="keramorph")
class Operation(keras.Operation):
    """One of `keramorph.ops`, recorded by calling it on KerasTensors.

    Args:
        function: Name in `keramorph.ops`.
        options: Its keyword arguments.
        name: Name of the node.
    """

    def __init__(self, function: str, options: dict[str, Any], *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.function = function
        self.options = options

    def call(self, *arrays: Array) -> Any:
        """Apply the operation."""
        return getattr(importlib.import_module("keramorph.ops"), self.function)(*arrays, **self.options)

    def get_config(self) -> dict[str, Any]:
        """What rebuilds the node."""
        return {"function": self.function, "options": self.options, "name": self.name}
