"""Strings in two arrays, which forked workers share: of a list of objects each would soon have a copy, page by page."""

from collections.abc import Iterable

import numpy as np


class Packed:
    """Strings by number.

    Args:
        content: (n_bytes,) uint8, all of them in UTF-8, one after the other.
        ends: (n,), where each ends in `content`.
    """

    def __init__(self, content: np.ndarray, ends: np.ndarray) -> None:
        self.content, self.ends = content, ends

    @classmethod
    def of(cls, strings: Iterable[str]) -> "Packed":
        """Packs strings, which may come one at a time."""
        content, ends = bytearray(), []
        for string in strings:
            content += string.encode()
            ends.append(len(content))
        return cls(np.array(content, np.uint8), np.array(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return self.content[start : self.ends[index]].tobytes().decode()
