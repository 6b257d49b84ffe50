"""A trained network used, and asked whether it has collapsed."""
