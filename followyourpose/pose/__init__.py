"""Human pose: the skeleton, its drawing, its detection in frames, and keypoints over time."""
