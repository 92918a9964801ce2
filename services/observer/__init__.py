"""Watching the input folder: events are hints, the scan is the truth."""
