"""Benchmarks: each file runs alone, on the embedded server or on DATABASE_URL's, and knows its bar."""
