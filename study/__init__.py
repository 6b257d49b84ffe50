"""Trying settings: the search, its records and its command line, over `model` and `data`."""
