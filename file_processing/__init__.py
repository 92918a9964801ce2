"""The core: from a path to committed rows, step by step as in docs/architecture.md."""
