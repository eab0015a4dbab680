"""Programs started from the repository's root as `python -m scripts.NAME`: benchmarks, baselines, reproduction."""
