"""Serves bundles: HTTP doors, adaptive batching, stored embeddings, metrics. `python -m service --help`."""
