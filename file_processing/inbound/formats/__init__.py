"""What a file may look like: each format stands behind the seam in base.py."""
