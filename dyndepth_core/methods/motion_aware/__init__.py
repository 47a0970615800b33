"""Plug-in: the motion-aware loss (Dong et al., ICRA 2024) for methods with a teacher and a student;
written from the paper's mathematics. Training only: the model is one of the method.
"""

from dyndepth_core.methods.base import PluginInfo
from dyndepth_core.methods.motion_aware.objective import apply

PLUGIN = PluginInfo("motion_aware", apply)
