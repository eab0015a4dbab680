"""Check of the arrays that metrics take."""

import numpy as np


def check_finite(**arrays: np.ndarray) -> None:
    """Raise a ValueError unless all numbers of the arrays are finite; it has an array's name, a count and an index."""
    for name, array in arrays.items():
        bad = ~np.isfinite(array)
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(f"{name}: {bad.sum()} of {bad.size} numbers are not finite, the first at index {first}")
