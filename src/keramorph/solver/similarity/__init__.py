"""How alike two images are, and how that changes with one of them: one measure a file."""

from keramorph.solver.similarity.block_correlation import BlockCorrelation
from keramorph.solver.similarity.channels import (
    compare_channels,
    count_channels,
    measure_channels,
    split_channels,
    take_channel,
)
from keramorph.solver.similarity.correlation import Correlation
from keramorph.solver.similarity.gradient_fields import GradientFields
from keramorph.solver.similarity.local_correlation import LocalCorrelation
from keramorph.solver.similarity.mean_squares import MeanSquares
from keramorph.solver.similarity.measure import Comparison, Measure, Similarity
from keramorph.solver.similarity.mutual_information import MutualInformation
from keramorph.solver.similarity.self_similarity import SelfSimilarity
from keramorph.solver.similarity.soft_dice import SoftDice

__all__ = [
    "BlockCorrelation",
    "Comparison",
    "Correlation",
    "GradientFields",
    "LocalCorrelation",
    "MeanSquares",
    "Measure",
    "MutualInformation",
    "SelfSimilarity",
    "Similarity",
    "SoftDice",
    "compare_channels",
    "count_channels",
    "measure_channels",
    "split_channels",
    "take_channel",
]
