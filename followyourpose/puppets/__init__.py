"""The puppet world: a procedural, seeded world of costumed characters with exact labels.

It takes the place of LAION-Pose and HD-VILA for the embedded default: captioned images with keypoints, captioned clips.
"""
