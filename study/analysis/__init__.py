"""What a study says: comparisons, verdicts, which settings hold over seeds."""
