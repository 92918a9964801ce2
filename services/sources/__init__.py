"""Fetch connectors: each ends in a file in `input/<flow>/`, and knows nothing of what becomes of it."""
