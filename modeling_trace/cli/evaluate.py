"""`modeling-trace evaluate PATH-OR-HUB-ID --dataset ...`: how good and how diverse one model is."""

import sys

from .compare import run_report


def run(argv: list[str] | None = None) -> int:
    """Evaluate one model. Returns the exit code."""
    return run_report(
        sys.argv[2:] if argv is None else argv,
        "evaluate",
        "PATH-OR-HUB-ID",
        "Measure a trained model on real texts and write a report: likelihood, representation, quality and diversity "
        "with intervals beside those of real text; what may not be concluded; random texts.",
    )


__all__ = ["run"]
