"""Keras, imported once its backend is settled: an installed one is picked only where nobody has chosen."""

import importlib.util
import json
import os
import sys
from pathlib import Path

_DEFAULT = "tensorflow"


def choose_backend() -> None:
    """Set `KERAS_BACKEND` to an installed framework if Keras would otherwise look for one that is absent.

    A choice is never overridden: neither the environment variable, nor an imported Keras, nor a configuration file
    that names another framework than Keras' own default.
    """
    if "KERAS_BACKEND" in os.environ or "keras" in sys.modules or _configured() != _DEFAULT:
        return
    if importlib.util.find_spec(_DEFAULT) is not None:
        return
    for name in ("jax", "torch"):
        if importlib.util.find_spec(name) is not None:
            os.environ["KERAS_BACKEND"] = name
            return


def _configured() -> str:
    """Backend named by Keras' configuration file; Keras writes that file itself, with its default in it."""
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    try:
        return str(json.loads((home / "keras.json").read_text()).get("backend", _DEFAULT))
    except (OSError, ValueError):
        return _DEFAULT


choose_backend()

import keras  # noqa: E402

__all__ = ["choose_backend", "keras"]
