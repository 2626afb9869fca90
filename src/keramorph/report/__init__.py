"""What a person looks at after a registration."""

from keramorph.report.figure import draw_report, write_report
from keramorph.report.scores import describe_metric, describe_outcome, describe_scores, describe_start

__all__ = ["describe_metric", "describe_outcome", "describe_scores", "describe_start", "draw_report", "write_report"]
