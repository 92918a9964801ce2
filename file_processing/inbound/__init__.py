"""Files on their way in: from a path to committed rows; pipeline.py reads from top to bottom."""
