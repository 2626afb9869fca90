"""The outcome and the numbers of a registration, in words for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LOSSES = {
    "loss_start": "at the start",
    "loss_rigid": "rigid",
    "loss_similarity": "rigid with a scale",
    "loss_affine": "affine",
    "loss_predicted": "predicted",
    "loss_deformable": "deformable",
}
METRICS = {
    "lncc": "local correlation",
    "ncc": "correlation",
    "mse": "squared differences",
    "nmi": "mutual information",
    "ngf": "directions of edges",
    "mind": "self-similarities",
}
STARTS = {"predicted": "what the model predicts", "affine": "no more than the affine transform"}
NUMBERS = {
    "overlap": "overlap {:.0%}",
    "displacement_max_mm": "bent by up to {:.1f} mm",
    "folds_percent": "folds {:.2g} %",
}


def describe_outcome(outcome: Any) -> str:
    """Return one line on how a registration ended.

    Args:
        outcome: `outcome` of a registration result: its `trusted` and its `reason`.

    Example:
        >>> from types import SimpleNamespace
        >>> describe_outcome(SimpleNamespace(trusted=False, reason="The images hardly overlap."))
        'Not to be trusted: The images hardly overlap.'
    """
    return "Aligned." if outcome.trusted else f"Not to be trusted: {outcome.reason}"


def describe_metric(choice: Any) -> str:
    """Return one line on what the images were compared by.

    Args:
        choice: `metric` of a registration result: its `name` and its `reason`.

    Example:
        >>> from types import SimpleNamespace
        >>> describe_metric(SimpleNamespace(name="lncc", reason="the images agree in contrast: 0.83"))
        'Metric: local correlation (the images agree in contrast: 0.83).'
    """
    return f"Metric: {METRICS[choice.name]} ({choice.reason})."


def describe_start(choice: Any) -> str:
    """Return one line on what the deformation began from.

    Args:
        choice: `start` of a registration result for which a model predicted one: its `name` and its `reason`.

    Example:
        >>> from types import SimpleNamespace
        >>> describe_start(SimpleNamespace(name="predicted", reason="it lowers the loss at 4 mm from 0.61 to 0.44"))
        'Start of the deformation: what the model predicts (it lowers the loss at 4 mm from 0.61 to 0.44).'
    """
    return f"Start of the deformation: {STARTS[choice.name]} ({choice.reason})."


def describe_scores(metrics: Mapping[str, float]) -> str:
    """Return one line with the numbers of a registration that a person asks for first.

    Args:
        metrics: `metrics` of a registration result.

    Example:
        >>> describe_scores({"loss_start": 0.94, "loss_affine": 0.8, "loss_deformable": 0.66, "folds_percent": 0.0})
        'loss 0.940 at the start, 0.800 affine, 0.660 deformable   folds 0 %'
    """
    words = [f"{metrics[key]:.3f} {name}" for key, name in LOSSES.items() if key in metrics]
    words = ["loss " + ", ".join(words)] if words else []
    words += [text.format(metrics[key]) for key, text in NUMBERS.items() if key in metrics]
    return "   ".join(words)
