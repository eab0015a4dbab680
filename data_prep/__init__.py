"""Data preparation, offline and run once: raw downloads -> shards and manifests, as `python -m data_prep.NAME`."""
