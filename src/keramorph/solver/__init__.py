"""Find the transform that lays one image on another: start, affine, deformation, level by level."""

from keramorph.solver.config import Config
from keramorph.solver.result import LevelRecord, MetricChoice, Outcome, Progress, Solution, StartChoice
from keramorph.solver.run import Initial
from keramorph.solver.search import solve

__all__ = [
    "Config",
    "Initial",
    "LevelRecord",
    "MetricChoice",
    "Outcome",
    "Progress",
    "Solution",
    "StartChoice",
    "solve",
]
