"""Learning depth and object motion from plain monocular video: the ROS-free core."""
