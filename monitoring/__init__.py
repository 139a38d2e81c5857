"""Watches what the service answers, and retrains."""
