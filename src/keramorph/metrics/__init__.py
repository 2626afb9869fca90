"""Metrics: how well labels, surfaces and landmarks agree, and how smooth a displacement is.

The functions take NumPy arrays and import no framework. The classes are Keras metrics, loaded when first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from keramorph.metrics.calibration import Calibration, measure_calibration
from keramorph.metrics.dice import dice
from keramorph.metrics.jacobian import folding_share, log_jacobian_sd
from keramorph.metrics.landmark_error import landmark_error
from keramorph.metrics.surface_distance import hausdorff95, mean_surface_distance

if TYPE_CHECKING:
    from keramorph.metrics.folding import FoldingShare
    from keramorph.metrics.overlap import Dice, DicePerLabel

_KERAS_METRICS = {"Dice": "overlap", "DicePerLabel": "overlap", "FoldingShare": "folding"}

__all__ = [
    "Calibration",
    "Dice",
    "DicePerLabel",
    "FoldingShare",
    "dice",
    "folding_share",
    "hausdorff95",
    "landmark_error",
    "log_jacobian_sd",
    "mean_surface_distance",
    "measure_calibration",
]


def __getattr__(name: str) -> Any:
    """Load a Keras metric when it is first asked for: the command line needs the functions alone."""
    if name in _KERAS_METRICS:
        return getattr(import_module(f"keramorph.metrics.{_KERAS_METRICS[name]}"), name)
    raise AttributeError(f"module 'keramorph.metrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
