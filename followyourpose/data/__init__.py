"""Videos and images on disk -> arrays: reading and writing files, sampling frames, and the geometry of a crop."""
