"""Monodepth2's recipe (Godard et al., ICCV 2019): the baseline everyone knows, written from the
paper's mathematics.
"""

from dyndepth_core.methods.base import MethodInfo
from dyndepth_core.methods.depth_pose_graph import DepthPoseGraph
from dyndepth_core.methods.monodepth.objective import MonodepthConfig, MonodepthObjective

METHOD = MethodInfo("monodepth", MonodepthConfig, MonodepthObjective, DepthPoseGraph)
