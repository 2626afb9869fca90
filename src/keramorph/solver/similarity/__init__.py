"""How alike two images are, and how that changes with one of them: one measure a file."""

from keramorph.solver.similarity.local_correlation import LocalCorrelation
from keramorph.solver.similarity.measure import Comparison, Similarity
from keramorph.solver.similarity.mutual_information import MutualInformation

__all__ = ["Comparison", "LocalCorrelation", "MutualInformation", "Similarity"]
