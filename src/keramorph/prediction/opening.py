"""Whatever somebody calls a model, as what predicts displacements of images."""

from __future__ import annotations

from typing import Any

from keramorph.prediction.keras_network import is_keras_model
from keramorph.prediction.network import ArrayNetwork
from keramorph.prediction.predictor import Predictor
from keramorph.prediction.uncertainty import Ensemble


def open_predictor(model: Any) -> Any:
    """Return what predicts displacements of images: the model itself where it does, or a predictor of it.

    Args:
        model: A `Predictor`, or anything else whose `predict` takes what that of a `Predictor` takes; or what a
            `Predictor` is made of; or a list of that, whose mean is predicted.
    """
    if isinstance(model, list | tuple):
        return Ensemble([Predictor(one) for one in model])
    network = is_keras_model(model) or isinstance(model, ArrayNetwork)
    return model if hasattr(model, "predict") and not network else Predictor(model)
