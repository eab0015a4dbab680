"""What every metric asks of its numbers."""

import numpy as np


def check_finite(**arrays: np.ndarray) -> None:
    """Refuses arrays (..., d) of any shape that hold NaN or infinity; they are given by the names the error shall use.

    Raises:
        ValueError: a number is not finite; the message says how many are, and where the first is.
    """
    for name, array in arrays.items():
        bad = ~np.isfinite(array)
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(f"{name}: {bad.sum()} of {bad.size} numbers are not finite, the first at index {first}")
