"""Files on disk: written durably, moved safely, named without surprises."""
