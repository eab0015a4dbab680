"""Downloads by name, brought into the form that is used: the authors' checkpoint is converted."""

import shutil
from dataclasses import replace
from pathlib import Path

from followyourpose.hub.download import fetch
from followyourpose.hub.registry import Download


def bring(download: Download, root: Path) -> Path:
    """Bring a download under `root` and return its place; of the authors' checkpoint what was converted is removed.

    Raises:
        ValueError: as `fetch`, or it cannot be converted.
    """
    target = root / download.path
    if not download.released:
        fetch(download, root)
    elif not target.exists():
        from followyourpose.pipeline.convert import convert_weights  # late: files alone need no networks

        source = root / f"{download.path}-as-released"
        fetch(replace(download, path=source.name), root)
        convert_weights(source, target)
        shutil.rmtree(source)
    return target
