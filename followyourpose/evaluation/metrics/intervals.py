"""How sure a number is that was measured on some videos: the bootstrap."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from followyourpose.evaluation.checks import check_finite


def bootstrap_interval(
    videos: Sequence[Any],
    statistic: Callable[[list[Any]], float] = np.mean,
    level: float = 0.95,
    rounds: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap (Efron, 1979): where `statistic` lies in `level` of the samples drawn from the videos.

    A sample has as many videos as there are, drawn with replacement; the ends are its (1 - level) / 2 and
    (1 + level) / 2 quantiles.

    Args:
        videos: what is known of each: a number for the mean, `Matches` for `average_precision`.

    Raises:
        ValueError: there is no video, or the statistic of a sample is not finite.
    """
    if not len(videos):
        raise ValueError("no videos: an interval is undefined")
    rng = np.random.default_rng(seed)
    draws = [statistic([videos[i] for i in rng.integers(len(videos), size=len(videos))]) for _ in range(rounds)]
    check_finite(statistic=np.array(draws))
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
