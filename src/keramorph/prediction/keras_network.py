"""A Keras model that registers, with or without the model around it that trained it; and the files of such models."""

from __future__ import annotations

import importlib
import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from keramorph.errors import ArrayTypeError, FileError, InputError
from keramorph.prediction.network import Network, View

_OWN = re.compile(r"keramorph(\.[a-z_]+)+")
"""Modules of this package, as the configuration of a model names them."""


def is_keras_model(model: Any) -> bool:
    """Whether something is a Keras model; asks nobody to import Keras, without which nothing is one."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.Model)


def load_model(path: Path) -> Any:
    """Return the model of a `.keras` file, its classes of this package known.

    Raises:
        FileError: If there is no such file, or it holds no model that can be built here.
    """
    if path.suffix != ".keras" or not path.is_file():
        raise FileError(
            f"A model is a file that `model.save('name.keras')` wrote. Received: model={str(path)!r}"
            f"{'' if path.exists() else ', no such file'}. Name one."
        )
    _import_modules(path)
    from keramorph._keras import keras

    try:
        return keras.saving.load_model(path, compile=False)
    except (TypeError, ValueError, KeyError, OSError) as problem:
        cause = " ".join(str(problem).split())[:300]
        raise FileError(
            f"A model must be one that Keras can build here. Received: model={str(path)!r} ({cause}). Import the "
            "classes that it is made of before, or load it yourself and hand the model over."
        ) from problem


def _import_modules(path: Path) -> None:
    """Import the modules of this package that a file names: Keras finds a class only once it has registered."""
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as problem:
        raise FileError(
            f"A model is a file that `model.save('name.keras')` wrote. Received: model={str(path)!r}, which is damaged "
            f"or something else ({problem}). Save it anew."
        ) from problem
    for name in sorted(_list_modules(config)):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as problem:
            raise FileError(
                f"A model is made of what this version of Keramorph has. Received: model={str(path)!r}, which needs "
                f"{name}. Install the version that saved it."
            ) from problem


def _list_modules(config: Any) -> set[str]:
    """Names of this package's modules anywhere in a configuration."""
    if isinstance(config, dict):
        own = {config["module"]} if _OWN.fullmatch(str(config.get("module"))) else set()
        return own.union(*map(_list_modules, config.values()))
    return set().union(*map(_list_modules, config)) if isinstance(config, list) else set()


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
