"""Files of a run of `generate`: every finished video in four forms, the run's record (run.json) and page (index.html).

Shapes: f frames, H W pixels. Frames are (f, H, W, 3) uint8 RGB.
"""

import itertools
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import numpy as np

from followyourpose.common.device import installed_version
from followyourpose.common.files import atomic_write, printable, slug
from followyourpose.common.pictures import contact_sheet, enlarge, evenly, to_uint8, write_picture
from followyourpose.config import GenerateConfig, Output
from followyourpose.data.video_io import gif_writer, video_writer
from followyourpose.generation.people import Prompt, chart, title
from followyourpose.generation.skeletons import SkeletonInput
from followyourpose.generation.unfinished import RECORD

FORMS = (".mp4", ".gif", "-sheet.png", "-with-skeleton.mp4")  # endings of a video's files, behind its name
ENDINGS = dict(zip(get_args(Output), FORMS, strict=True))  # output -> ending
INDEX = "index.html"
VERSIONS = ("followyourpose", "torch", "diffusers", "transformers", "numpy")
Frames = Callable[[Sequence[int]], np.ndarray]  # numbers of frames -> these, (f, H, W, 3)
_CHUNK = 16  # finished frames in memory at a time


@dataclass(frozen=True)
class Shot:
    """One video to draw."""

    name: str  # beginning of its files' names
    prompt: Prompt
    source: SkeletonInput
    seed: int
    size: tuple[int, int]  # height and width in pixels
    outputs: tuple[Output, ...]  # kinds of its files

    @property
    def files(self) -> list[str]:
        """Names of the video's files, in the order of `outputs`."""
        return [self.name + ENDINGS[output] for output in self.outputs]

    def record(self) -> dict[str, Any]:
        """Return the video's entry in the run's record."""
        return {"prompt": title(self.prompt), "skeleton": self.source.name, "seed": self.seed, "files": self.files}


def shots_of(
    config: GenerateConfig, prompts: list[Prompt], sources: list[SkeletonInput], size: tuple[int, int]
) -> list[Shot]:
    """Return the videos of a run: each skeleton with each prompt and each seed."""
    seeds = range(config.seed, config.seed + config.num_videos_per_prompt)
    shots = []
    for (number, source), (index, prompt), seed in itertools.product(enumerate(sources), enumerate(prompts), seeds):
        name = f"{index:02d}-{slug(title(prompt))}"
        name += f"-{number:02d}-{slug(source.name)}" if len(sources) > 1 else ""
        name += f"-{seed}" if len(seeds) > 1 else ""
        shots.append(Shot(name, prompt, source, seed, size, tuple(config.outputs)))
    return shots


def chunks(total: int) -> Iterator[range]:
    """Yield the numbers of `total` frames in ranges that fit into memory."""
    yield from (range(start, min(start + _CHUNK, total)) for start in range(0, total, _CHUNK))


def write_forms(folder: Path, shot: Shot, read: Frames, config: GenerateConfig) -> None:
    """Write a finished video's files into a folder, from a function that reads its frames by their numbers."""
    files = {output: folder / file for output, file in zip(shot.outputs, shot.files, strict=True)}
    height, width = (side * config.enlarge for side in shot.size)

    def frames(numbers: Sequence[int]) -> np.ndarray:
        return enlarge(read(numbers), config.enlarge)

    with ExitStack() as stack:
        writers = {
            output: stack.enter_context(open_file(files[output], height, columns, config.fps))
            for output, open_file, columns in (
                ("mp4", video_writer, width),
                ("gif", gif_writer, width),
                ("with-skeleton", video_writer, 2 * width),
            )
            if output in files
        }
        for numbers in chunks(config.num_frames):
            part = frames(numbers)
            for output, write in writers.items():
                if output == "with-skeleton":
                    skeleton = to_uint8(shot.source.frames(height, width, numbers))
                    write(np.concatenate([skeleton, part], axis=2))
                else:
                    write(part)
    if "sheet" in files:
        sheet = contact_sheet(frames(evenly(config.num_frames)))
        changes = chart(config, shot.prompt, sheet.shape[1])
        write_picture(files["sheet"], sheet if changes is None else np.concatenate([sheet, changes]))


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write a run's page and record."""
    atomic_write(folder / INDEX, index_page(record))
    atomic_write(folder / RECORD, json.dumps(record, indent=2) + "\n")


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that draw; None: not installed, as in a bare checkout."""
    return {"python": platform.python_version()} | {name: installed_version(name) for name in VERSIONS}


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
video, img {{ background: #0003; border-radius: .4rem; display: block; height: auto; width: 100%; }}
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
{shown}
<figcaption>{prompt}<br><small>skeleton {skeleton}, seed {seed}<br>
{links}</small></figcaption>
</figure>"""
_VIDEO = '<video controls loop muted playsinline preload="metadata" {size} src="{file}"></video>'
_IMAGE = '<img {size} alt="frames" src="{file}">'
_LINKS = {"with-skeleton": "with skeleton", "gif": "gif", "sheet": "frames"}  # the best to show last


def index_page(record: Mapping[str, Any]) -> str:
    """Return the page of a run's record: each video with its prompt, skeleton and seed, and the settings below.

    Addresses are relative to the run's folder, so that the page can be opened there, moved with it, or served.
    """
    settings, count = record["settings"], len(record["videos"])
    figures = []
    for video in record["videos"]:
        outputs = settings.get("outputs", get_args(Output))
        files = {output: escape(quote(file)) for output, file in zip(outputs, video["files"], strict=True)}
        best = next(output for output in ("mp4", *_LINKS) if output in files)
        size = "" if best == "sheet" else f'width="{settings["width"]}" height="{settings["height"]}"'
        shown = (_VIDEO if ENDINGS[best].endswith(".mp4") else _IMAGE).format(size=size, file=files.pop(best))
        figures.append(
            _FIGURE.format(
                shown=shown,
                prompt=escape(printable(video["prompt"])),
                skeleton=escape(printable(video["skeleton"])),
                seed=video["seed"],
                links=" · ".join(f'<a href="{files[key]}">{text}</a>' for key, text in _LINKS.items() if key in files),
            )
        )
    about = json.dumps({key: value for key, value in record.items() if key != "videos"}, indent=2)
    title = "1 video" if count == 1 else f"{count} videos"
    return _PAGE.format(title=title, figures="\n".join(figures), settings=escape(about))
