"""The training engine: fit, resumable stages, health checks."""
