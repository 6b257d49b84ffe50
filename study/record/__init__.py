"""A study's own record: its journals, Optuna's database, and its trials as they are read."""
