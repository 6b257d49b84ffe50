"""MLflow, and nothing outside this package speaks to it."""

from study.tracking.tracker import Tracker, View

__all__ = ["Tracker", "View"]
