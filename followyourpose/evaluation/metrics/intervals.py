"""Confidence intervals of numbers over videos: the bootstrap."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from followyourpose.evaluation.metrics.checks import check_finite


def bootstrap_interval(
    videos: Sequence[Any],
    statistic: Callable[[list[Any]], float] = np.mean,
    level: float = 0.95,
    rounds: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap (Efron, 1979) of a statistic of videos.

    Each of `rounds` resamples draws as many videos as there are, with replacement; the ends of the interval are the
    (1 - level) / 2 and (1 + level) / 2 quantiles of their statistics.

    Args:
        videos: the statistic's input from each: a number for the mean, `Matches` for `average_precision`.

    Raises:
        ValueError: there is no video, or the statistic of a resample is not finite.
    """
    if not len(videos):
        raise ValueError("no videos: an interval is undefined")
    rng = np.random.default_rng(seed)
    draws = [statistic([videos[i] for i in rng.integers(len(videos), size=len(videos))]) for _ in range(rounds)]
    check_finite(statistic=np.array(draws))
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
