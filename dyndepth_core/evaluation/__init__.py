"""Metrics, protocols, baselines and statistics."""
