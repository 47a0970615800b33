"""Geometry as pure functions on tensors, batch first; the conventions are stated in each module."""
