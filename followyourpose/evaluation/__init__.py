"""Evaluation of generated videos: CLIP, pose and pixel metrics with intervals, and their report."""
