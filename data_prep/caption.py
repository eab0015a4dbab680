"""Captions of clips or images by an image-to-text model, in the lines of a manifest.

IN is a folder with a manifest.jsonl, such as data_prep.hdvila's output, or one of videos or images, also in folders.
OUT.jsonl gets the manifest's lines, or a line {"video"} or {"image"} per file, with new captions. The `--captions` of
data_prep.hdvila take it; as IN/manifest.jsonl, which then lists all files in IN, training reads it. A caption that is
empty, without words or repeats itself is left out and counted. To go on after any stop, or when more files are there,
run the same command again.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.command import add_runner, is_last, parser, runner_of, start
from data_prep.scale import run
from data_prep.units import is_done, new_files, remove_orphans, write_marker
from followyourpose.common.checks import check_at_least
from followyourpose.common.files import atomic_write, read_json
from followyourpose.data.image_folder import MANIFESTS
from followyourpose.data.images import WHITE
from followyourpose.data.labels import Dropped
from followyourpose.data.manifest import json_rows
from followyourpose.data.video_io import probe, read_frames
from followyourpose.data.video_readers import IMAGE_SUFFIXES, VIDEO_SUFFIXES, VideoError
from followyourpose.hub.resolve import resolve

UNIT = 64  # files; so many are lost by a kill
KINDS = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES}
_REPEATED = re.compile(r"(\b\w+(?:\W+\w+)?\b)(?:\W+\1\b){3}", re.IGNORECASE)  # a word or two, four times running

Unit = tuple[str, ...]  # names of files that still need captions, at most `UNIT`


@dataclass(frozen=True)
class Captioning:
    """Job that captions files of the folder `source` into the folder `parts`."""

    source: Path
    parts: Path
    model: str
    prompt: str = ""
    frames: int = 1  # so many of each clip, the middles of equal parts
    every: int = 0  # or else each so-many-eth from the first; 0: not used
    batch: int = 16  # frames that the model gets at a time
    most: int = 40  # tokens of a caption

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that captions depend on, for the files of the units."""
        own = {key: value for key, value in asdict(self).items() if key not in ("source", "parts", "batch")}
        return own | {"model": Path(self.model).name}

    def is_done(self, unit: Unit) -> bool:
        return not unit

    def open(self) -> Callable[[Unit], None]:
        from transformers.utils import logging  # late: the process that starts the workers needs no model

        from data_prep.captioner import Captioner

        logging.set_verbosity_error()  # each batch would print which settings of the model are not used
        return partial(caption, job=self, captioner=Captioner(self.model, self.prompt, self.most))

    def done(self) -> dict[str, dict[str, Any]]:
        """Read the units' files: the name of each captioned file -> its `bytes`, `captions` and `faults`.

        Raises:
            ValueError: they were made with other settings.
        """
        files = [file for file in self.parts.glob("*.json") if is_done(file, self.settings)]
        found = (item for file in files for item in read_json(file)["files"].items())
        return {
            name: record for name, record in found if record["bytes"] == self.size(name)
        }  # not of a file since changed

    def size(self, name: str) -> int:
        """Bytes of a file; -1 where it is no longer there."""
        file = self.source / name
        return file.stat().st_size if file.is_file() else -1


def caption(unit: Unit, job: Captioning, captioner: Callable[[list[np.ndarray]], list[str]]) -> None:
    """Caption the files of a unit; what is found goes to one file of `job.parts`.

    Raises:
        ValueError: it cannot be written.
    """
    files = {name: {"bytes": job.size(name), "captions": [], "faults": []} for name in unit}
    frames = _frames(unit, job, lambda name: files[name]["faults"].append([0, "of files that cannot be read"]))
    while batch := list(islice(frames, job.batch)):
        for (name, frame, _), text in zip(batch, captioner([image for *_, image in batch]), strict=True):
            reason = fault(text)
            files[name]["faults" if reason else "captions"].append([frame, reason or text])
    marker = hashlib.sha256("\n".join(unit).encode("utf-8", "backslashreplace")).hexdigest()[:16] + ".json"
    with new_files(job.parts, marker) as folder:
        write_marker(folder / marker, {"settings": job.settings, "files": files})


def _frames(unit: Unit, job: Captioning, unreadable: Callable[[str], None]) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield the name of a file, the number of one of its frames, and the frame (H, W, 3) uint8 RGB."""
    for name in unit:
        try:
            chosen = chosen_frames(probe(job.source / name).num_frames, job.frames, job.every)
            for first in range(0, len(chosen), job.batch):  # of a long video not all at once
                some = chosen[first : first + job.batch]
                yield from (
                    (name, *pair) for pair in zip(some, read_frames(job.source / name, some, WHITE), strict=True)
                )
        except VideoError:
            unreadable(name)


def chosen_frames(total: int, frames: int, every: int = 0) -> Sequence[int]:
    """Return the frames to caption among `total`: each `every`-th, or else the middles of `frames` equal parts."""
    if every:
        return range(0, total, every)
    return sorted({(2 * part + 1) * total // (2 * frames) for part in range(frames)})


def fault(text: str) -> str | None:
    """Return the reason to leave out a caption; None keeps it."""
    if not text.strip():
        return "that are empty"
    if not re.search(r"[^\W\d_]{2}", text):
        return "without a word"
    return "that repeat themselves" if _REPEATED.search(text) else None


# ---- manifests -------------------------------------------------------------------------------------------------------


def find_files(source: Path, out: Path) -> dict[str, dict[str, Any]]:
    """Return the files of a folder by name, each with its line of the manifest, in its order; those there are.

    Without a manifest, and where `out` is the manifest, all videos and images in the folder.

    Raises:
        ValueError: there is none, or a line of the manifest is not as a loader's.
    """
    rows, manifest = {}, source / MANIFESTS[0]
    if manifest.is_file():
        for where, row in json_rows(manifest, Dropped()):
            name = (row.get("video") or row.get("image")) if isinstance(row, dict) else None
            if not isinstance(name, str):
                raise ValueError(f"{where}: expected an object with video or image")
            rows[name] = row
    if not manifest.is_file() or manifest == out.absolute():
        for file in sorted(source.rglob("*")):
            kind = next((kind for kind, suffixes in KINDS.items() if file.suffix.lower() in suffixes), None)
            name = file.relative_to(source).as_posix()
            if kind and not name.startswith(".") and "/." not in name:
                rows.setdefault(name, {kind: name})
    rows = {name: row for name, row in rows.items() if (source / name).is_file()}
    if not rows:
        raise ValueError(f"{source}: holds no videos or images, expected {', '.join(sum(KINDS.values(), ()))}")
    return rows


def write_captions(out: Path, rows: dict[str, dict[str, Any]], found: dict[str, dict[str, Any]]) -> None:
    """Write the lines of a manifest with new captions, "" where there is none; print the number of both."""
    dropped, lines, kept = Dropped(), [], 0
    for name, row in rows.items():
        captions = found[name]["captions"]
        for frame, reason in found[name]["faults"]:
            dropped.add(reason, f"{name}, frame {frame}" if "video" in row else name)
        kept += bool(captions)
        text: Any = [{"frame": frame, "caption": caption} for frame, caption in captions]
        if len(captions) < 2:
            text = captions[0][1] if captions else ""
        lines.append(json.dumps(row | {"caption": text}) + "\n")
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, "".join(lines))
    print(f"{out}: {kept:,} of {len(rows):,} files have a caption; captions left out: {dropped}")


# ---- the command -----------------------------------------------------------------------------------------------------


def _flags() -> argparse.ArgumentParser:
    flags = parser(
        "caption",
        __doc__,
        "python -m data_prep.caption data/hdvila data/captions.jsonl --every 64",
        "python -m data_prep.caption data/mine data/mine/manifest.jsonl --model Qwen/Qwen2.5-VL-3B-Instruct --frames 2",
        "python -m data_prep.caption data/mine data/captions.jsonl --model florence-community/Florence-2-base "
        "--prompt '<DETAILED_CAPTION>'",
    )
    flags.add_argument("source", type=Path, metavar="IN", help="the folder of clips or images")
    flags.add_argument(
        "out", type=Path, metavar="OUT.jsonl", help="the lines; beside it, OUT.parts holds finished units"
    )
    flags.add_argument(
        "--model", default="blip", metavar="NAME",
        help="an image-to-text model of transformers: a name of `followyourpose download`, a hub id or a folder "
        "(default: blip)",
    )  # fmt: skip
    flags.add_argument(
        "--prompt", default="", help="the question to a model that chats, Florence-2's task, the beginning of BLIP's "
        "captions; none of it becomes part of the caption (default: the usual one)",
    )  # fmt: skip
    chosen = flags.add_mutually_exclusive_group()
    chosen.add_argument(
        "--frames", type=int, default=1, metavar="N",
        help="frames of a clip with a caption each, evenly spaced (default: 1, the middle one)",
    )  # fmt: skip
    chosen.add_argument(
        "--every", type=int, metavar="FRAMES", help="or from one to the next; 64 as in the released code's captions"
    )
    flags.add_argument("--batch", type=int, default=16, metavar="N", help="frames at a time (default: 16)")
    flags.add_argument("--most", type=int, default=40, metavar="TOKENS", help="length of a caption (default: 40)")
    add_runner(flags)
    return flags


def main(arguments: Sequence[str] | None = None) -> None:
    """Caption a folder; `arguments` None: those of the process."""
    options = _flags().parse_args(arguments)
    for name in ("frames", "batch", "most"):
        check_at_least(f"--{name}", getattr(options, name))
    if options.every is not None:
        check_at_least("--every", options.every)
    if options.out.suffix != ".jsonl":
        raise ValueError(f"{options.out}: expected a name that ends in .jsonl")
    every = options.every or 0
    job = Captioning(
        options.source.absolute(), options.out.with_suffix(".parts").absolute(), options.model, options.prompt,
        0 if every else options.frames, every, options.batch, options.most,
    )  # fmt: skip
    rows = find_files(job.source, options.out)
    resolve(job.model, "--model")
    remove_orphans(job.parts)
    run(job, _units(list(rows), job), **runner_of(options))
    if is_last(options, options.out):
        write_captions(options.out, rows, job.done())


def _units(names: Sequence[str], job: Captioning) -> list[Unit]:
    """Return the same units for every task of an array, each without the files that have captions."""
    done = job.done()
    units = (names[first : first + UNIT] for first in range(0, len(names), UNIT))
    return [tuple(name for name in unit if name not in done) for unit in units]


if __name__ == "__main__":
    start("caption", main)
