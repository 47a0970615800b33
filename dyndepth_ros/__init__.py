"""ROS 2 nodes of dyndepth; thin wrappers around `dyndepth_core`."""
