"""MLflow, and nothing outside this package speaks to it."""

from study.tracking.tracker import Tracker as Tracker
