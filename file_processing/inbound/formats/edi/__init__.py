"""EDI files: EDIFACT and X12 interchanges, read strictly and answered."""
