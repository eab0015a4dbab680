"""Files of a run of `generate`: every finished video in four forms, the run's record (run.json) and page (index.html).

Shapes: f frames, H W pixels. Frames are (f, H, W, 3) uint8 RGB.
"""

import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from followyourpose.common.files import atomic_write, printable
from followyourpose.common.pictures import contact_sheet, enlarge, evenly, write_picture
from followyourpose.config import GenerateConfig
from followyourpose.data.video_io import gif_writer, video_writer
from followyourpose.generation.skeletons import SkeletonInput
from followyourpose.generation.unfinished import RECORD

FORMS = (".mp4", ".gif", "-sheet.png", "-with-skeleton.mp4")  # endings of a video's files, behind its name
INDEX = "index.html"
VERSIONS = ("followyourpose", "torch", "diffusers", "transformers", "numpy")
Frames = Callable[[Sequence[int]], np.ndarray]  # numbers of frames -> these, (f, H, W, 3)
_CHUNK = 16  # finished frames in memory at a time


@dataclass(frozen=True)
class Shot:
    """One video to draw.

    Attributes:
        name: beginning of its files' names.
        size: height and width in pixels.
    """

    name: str
    prompt: str
    source: SkeletonInput
    seed: int
    size: tuple[int, int]

    @property
    def files(self) -> list[str]:
        """Names of the video's files, in the order of `FORMS`."""
        return [self.name + form for form in FORMS]

    def record(self) -> dict[str, Any]:
        """Return the video's entry in the run's record."""
        return {"prompt": self.prompt, "skeleton": self.source.name, "seed": self.seed, "files": self.files}


def chunks(total: int) -> Iterator[range]:
    """Yield the numbers of `total` frames in ranges that fit into memory."""
    yield from (range(start, min(start + _CHUNK, total)) for start in range(0, total, _CHUNK))


def write_forms(folder: Path, shot: Shot, read: Frames, config: GenerateConfig) -> None:
    """Write a finished video into a folder in all its forms, from a function that reads its frames by their numbers."""
    mp4, gif, sheet, pair = (folder / file for file in shot.files)
    height, width = (side * config.enlarge for side in shot.size)

    def frames(numbers: Sequence[int]) -> np.ndarray:
        return enlarge(read(numbers), config.enlarge)

    with (
        video_writer(mp4, height, width, config.fps) as write,
        gif_writer(gif, height, width, config.fps) as write_gif,
        video_writer(pair, height, 2 * width, config.fps) as write_pair,
    ):
        for numbers in chunks(config.num_frames):
            part = frames(numbers)
            write(part)
            write_gif(part)
            write_pair(np.concatenate([shot.source.frames(height, width, numbers), part], axis=2))
    write_picture(sheet, contact_sheet(frames(evenly(config.num_frames))))


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write a run's page and record."""
    atomic_write(folder / INDEX, index_page(record))
    atomic_write(folder / RECORD, json.dumps(record, indent=2) + "\n")


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that draw; None: not installed, as in a bare checkout."""
    return {"python": platform.python_version()} | {name: _version(name) for name in VERSIONS}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# ---- the page --------------------------------------------------------------------------------------------------------

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.4 system-ui, sans-serif; margin: 1rem auto; max-width: 90rem; padding: 0 1rem; }}
main {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); }}
figure {{ margin: 0; }}
video {{ background: #0003; border-radius: .4rem; display: block; height: auto; width: 100%; }}
figcaption {{ overflow-wrap: anywhere; padding: .4rem 0; }}
small {{ opacity: .8; }}
button {{ font: inherit; padding: .4rem 1rem; }}
pre {{ overflow-x: auto; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p><button onclick="for (const video of document.querySelectorAll('video')) {{ video.currentTime = 0; video.play(); }}">
Play all</button></p>
<main>
{figures}
</main>
<details><summary>Settings</summary><pre>{settings}</pre></details>
</body>
</html>
"""
_FIGURE = """<figure>
<video controls loop muted playsinline preload="metadata" width="{width}" height="{height}" src="{mp4}"></video>
<figcaption>{prompt}<br><small>skeleton {skeleton}, seed {seed}<br>
<a href="{pair}">with skeleton</a> · <a href="{gif}">gif</a> · <a href="{sheet}">frames</a></small></figcaption>
</figure>"""


def index_page(record: Mapping[str, Any]) -> str:
    """Return the page of a run's record: each video with its prompt, skeleton and seed, and the settings below.

    Addresses are relative to the run's folder, so that the page can be opened there, moved with it, or served.
    """
    settings, count = record["settings"], len(record["videos"])
    figures = []
    for video in record["videos"]:
        mp4, gif, sheet, pair = (escape(quote(file)) for file in video["files"])
        figures.append(
            _FIGURE.format(
                width=settings["width"],
                height=settings["height"],
                prompt=escape(printable(video["prompt"])),
                skeleton=escape(printable(video["skeleton"])),
                seed=video["seed"],
                mp4=mp4,
                gif=gif,
                sheet=sheet,
                pair=pair,
            )
        )
    about = json.dumps({key: value for key, value in record.items() if key != "videos"}, indent=2)
    title = "1 video" if count == 1 else f"{count} videos"
    return _PAGE.format(title=title, figures="\n".join(figures), settings=escape(about))
