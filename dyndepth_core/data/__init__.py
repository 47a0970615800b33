"""Recordings, samples, transforms and the synthetic driving world."""
