"""What a person looks at after a registration."""

from keramorph.report.figure import draw_report, write_report
from keramorph.report.scores import describe_metric, describe_outcome, describe_scores

__all__ = ["describe_metric", "describe_outcome", "describe_scores", "draw_report", "write_report"]
