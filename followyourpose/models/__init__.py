"""The networks of Follow Your Pose (arXiv 2304.01186) and the ways in and out of their weights."""
