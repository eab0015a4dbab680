"""The puppet world: a procedural, seeded world of costumed characters with exact labels.

It plays LAION-Pose's and HD-VILA's part for the embedded default: captioned images with keypoints, and captioned clips.
"""
