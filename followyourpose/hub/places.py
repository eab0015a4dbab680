"""Places: configs and embedded models, of a clone or in a wheel, and the folder of downloads."""

import os
from pathlib import Path

from followyourpose.hub.registry import Download

_PACKAGE = Path(__file__).resolve().parents[1]
_SHIPPED = _PACKAGE / "shipped"  # in an installed wheel
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
REPOSITORY = _SHIPPED if _SHIPPED.is_dir() else _PACKAGE.parent  # where configs/ and checkpoints/ lie
# Downloads do not go into an installed package: its folder may be read-only, and the next version replaces it.
CHECKPOINTS = (_CACHE / "followyourpose" if REPOSITORY == _SHIPPED else REPOSITORY) / "checkpoints"


def locate(path: str | Path) -> Path:
    """Return a relative path of a config as seen from the working directory, or else from the repository's root.

    The package's own files (followyourpose/assets) are found in an installed wheel, too. A path that exists in no such
    place is returned as it is.
    """
    path = Path(path).expanduser()
    root = _PACKAGE.parent if path.parts[:1] == (_PACKAGE.name,) else REPOSITORY
    return path if path.exists() or not (root / path).exists() else root / path


def place_of(download: Download) -> Path:
    """Return where a download lies or, where it does not, will lie."""
    there = locate(Path("checkpoints") / download.path)
    return there if there.exists() else CHECKPOINTS / download.path
