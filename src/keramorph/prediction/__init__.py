"""Prediction: trained networks at work on images of any size and place, and how far each vector can be relied on.

Keras is imported when a Keras model is loaded, and not before.
"""

from keramorph.prediction.predictor import Predictor
from keramorph.prediction.uncertainty import Ensemble, UncertainPrediction, predict_with_uncertainty

__all__ = ["Ensemble", "Predictor", "UncertainPrediction", "predict_with_uncertainty"]
