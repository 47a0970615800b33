"""Plug-in: the motion-aware loss (Dong et al., ICRA 2024), for any method with a teacher and a
student; training only.
"""
