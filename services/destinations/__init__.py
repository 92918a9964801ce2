"""Deliver connectors: each starts from a finished file in `output/<flow>/`, in order, and hands it over once."""
