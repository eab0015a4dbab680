"""`followyourpose generate` and `extract-pose`: settings and files -> folders of videos and of skeletons."""
