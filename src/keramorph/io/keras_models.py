"""Models that Keras saved, with their classes of this package known."""

from __future__ import annotations

import importlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from keramorph.errors import FileError

_OWN = re.compile(r"keramorph(\.[a-z_]+)+")
"""Modules of this package, as the configuration of a model names them."""


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
