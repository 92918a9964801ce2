"""Rows on their way out: from a changed row to a file in its place."""
