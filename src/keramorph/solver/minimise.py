"""Minimise a function of a few parameters from its value and its gradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Function = Callable[[np.ndarray], tuple[float, np.ndarray]]

_SUFFICIENT = 1e-4
_SHRINK = 0.4
_TRIALS = 8
_CAREFUL = 0.1
_FIRST = 3
"""Iterations before which a small gain does not end the search."""


def minimise(
    function: Function,
    start: np.ndarray,
    *,
    iterations: int,
    reach: float,
    tolerance: float,
    notify: Callable[[int, float], None],
) -> tuple[np.ndarray, list[float]]:
    """Return the parameters of a local minimum and the value before each iteration and at the end, by BFGS.

    Args:
        function: Value and gradient at some parameters.
        start: Parameters to start from.
        iterations: Most iterations.
        reach: Length of the first step; no later one is longer than four times this.
        tolerance: Relative gain of an iteration below which the search ends.
        notify: Called with the number of iterations done and the value.

    References:
        Nocedal and Wright, Numerical Optimization, 2006, chapter 6, doi:10.1007/978-0-387-40065-5.
    """
    parameters = start
    value, gradient = function(parameters)
    inverse, fresh = _scaled_identity(gradient, reach), True
    values = [value]
    for done in range(iterations):
        notify(done, value)
        direction = -inverse @ gradient
        direction *= min(1.0, 4 * reach / (np.abs(direction).max() + 1e-30))
        found = _search(function, parameters, value, gradient, direction) if direction @ gradient < 0 else None
        if found is None:
            if fresh:
                break
            # What was learnt of the curvature no longer holds: start again from the gradient, with short steps.
            inverse, fresh = _scaled_identity(gradient, _CAREFUL * reach), True
            continue
        step, new_value, new_gradient = found
        inverse = _update(inverse, step, new_gradient - gradient, first=fresh)
        gain = value - new_value
        parameters, value, gradient, fresh = parameters + step, new_value, new_gradient, False
        values.append(value)
        if gain < tolerance * abs(value) and done >= _FIRST:
            break
    return parameters, values


def _scaled_identity(gradient: np.ndarray, reach: float) -> np.ndarray:
    return np.eye(len(gradient)) * (reach / (np.linalg.norm(gradient) + 1e-30))


def _search(
    function: Function, parameters: np.ndarray, value: float, gradient: np.ndarray, direction: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray] | None:
    """First step along a direction that lowers the value enough; None if none does."""
    length = 1.0
    for _ in range(_TRIALS):
        new_value, new_gradient = function(parameters + length * direction)
        if new_value <= value + _SUFFICIENT * length * float(direction @ gradient):
            return length * direction, new_value, new_gradient
        length *= _SHRINK
    return None


def _update(inverse: np.ndarray, step: np.ndarray, change: np.ndarray, *, first: bool) -> np.ndarray:
    """Inverse Hessian that maps the change of the gradient to the step."""
    curvature = float(step @ change)
    if curvature <= 1e-12 * float(np.linalg.norm(step) * np.linalg.norm(change)):
        return inverse
    identity = np.eye(len(step))
    if first:
        inverse = identity * (curvature / float(change @ change))
    left = identity - np.outer(step, change) / curvature
    return left @ inverse @ left.T + np.outer(step, step) / curvature
