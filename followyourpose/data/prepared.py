"""Counts of data_prep: a JSON file per unit of work of a data set, added up.

    {"settings": {...}, "read": 1000, "kept": 420, "dropped": {"without people": 510, ...}, ...}

LAION-Pose has FOLDER/SHARD_stats.json, HD-VILA FOLDER/part_N/stats/VIDEO_stats.json.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from followyourpose.common.files import read_json

STATS = "_stats.json"  # a unit's name and this is its stats file


def stats_files(folder: Path) -> list[Path]:
    """Return the stats files of a prepared data set; none where it was made in another way."""
    return sorted([*folder.glob(f"*{STATS}"), *folder.glob(f"part_*/stats/*{STATS}")])


def add_up(files: Iterable[Path]) -> dict[str, Any]:
    """Return the sum of every number in the files, under its key; `settings` are left out.

    Raises:
        ValueError: a file cannot be read; the message names it.
    """
    total: dict[str, Any] = {}
    for file in files:
        try:
            content = read_json(file)
            content.pop("settings", None)
            _add(total, content)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{file}: not a stats file of data_prep ({error})") from error
    return total


def summary(total: dict[str, Any]) -> str:
    """Return one line with the numbers of samples read, kept and dropped."""
    read, kept = total.get("read", 0), total.get("kept", 0)
    share = f" ({100 * kept / read:.1f} %)" if read else ""
    others = sorted(total.get("dropped", {}).items(), key=lambda item: (-item[1], item[0]))
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in others) or "nothing"
    return f"{read:,} read, {kept:,} kept{share}; dropped: {dropped}"


def _add(total: dict[str, Any], content: dict[str, Any]) -> None:
    for key, value in content.items():
        if isinstance(value, dict):
            _add(total.setdefault(key, {}), value)
        elif isinstance(value, int | float):
            total[key] = total.get(key, 0) + value
