"""A study run: Ray Tune over the record, MLflow beside it."""
