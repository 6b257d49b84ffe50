"""From what a user asks to a study that is to be run: a new one, one that goes on, one begun from another."""
