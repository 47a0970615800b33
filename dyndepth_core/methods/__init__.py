"""Published systems, one folder each; adding a method adds a folder and touches nothing else."""

from dyndepth_core.methods.base import build_graph, get_method, method_names

__all__ = ["build_graph", "get_method", "method_names"]
