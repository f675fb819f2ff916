"""One page."""

from pretrain.evaluation.report import Report


def render(report: Report) -> str:
    """Return the page."""
    return str(len(report.tasks))
