"""Evaluation: how well a network registers pairs whose labels or landmarks are known.

Imports no framework itself.
"""

from keramorph.evaluation.figure import write_figure
from keramorph.evaluation.pairs import EvaluationPair, PairScores, average_scores, evaluate_pairs

__all__ = ["EvaluationPair", "PairScores", "average_scores", "evaluate_pairs", "write_figure"]
