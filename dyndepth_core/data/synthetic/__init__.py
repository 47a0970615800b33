"""The synthetic driving world: seeded streets with exact depth, motion and poses."""

from .world import Frame, World
from .write import write_clip

__all__ = ["Frame", "World", "write_clip"]
