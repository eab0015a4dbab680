"""LAION-Pose (paper, section 4.1): img2dataset's shards -> shards with people's keypoints, the data of stage 1.

A unit of work is a shard. IN/00000.tar becomes OUT/00000.tar, the kept images, OUT/00000.parquet, the status of every
image, and OUT/00000_stats.json, the counts, which come last and mark the shard as done.
To go on after any stop, run the same command again.
"""

import argparse
import io
import json
import tarfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from data_prep.command import add_runner, parser, runner_of, start
from data_prep.scale import run
from data_prep.selection import Selection, largest_area
from data_prep.units import is_done, new_files, remove_orphans, write_marker
from followyourpose.common.checks import check_choice, check_installed, is_text
from followyourpose.common.files import parse_json, read_json
from followyourpose.data.image_pose import Samples, read_image, scan_shard
from followyourpose.data.labels import SEEN, as_text, only_inside
from followyourpose.data.prepared import STATS, add_up, summary
from followyourpose.pose.estimate import WEIGHTS, PoseEstimator, check_estimator, open_estimator
from followyourpose.pose.skeleton import JOINTS

KEPT = "kept"  # status of a kept image; the others have a reason
_PIXELS = 2**24  # of images that are decoded at a time: 64 of 512 x 512
_SUFFIXES = {"PNG": "png", "WEBP": "webp"}  # by the format of the content; any other is named jpg


@dataclass(frozen=True)
class Annotation:
    """Job that annotates shards into the folder `out`."""

    out: Path
    backend: str
    selection: Selection = field(default_factory=Selection)
    weights: str | None = None  # None: the backend's default
    boxes: str | None = None

    def settings(self, shard: Path) -> dict[str, Any]:
        """Everything that a shard's output depends on, for its stats file."""
        files = {key: path and Path(path).name for key, path in (("weights", self.weights), ("boxes", self.boxes))}
        return {"backend": self.backend, **files, **asdict(self.selection), "bytes of the input": shard.stat().st_size}

    def is_done(self, shard: Path) -> bool:
        return is_done(self.out / f"{shard.stem}{STATS}", self.settings(shard))

    def check(self) -> None:
        """Raise a ValueError where a setting is out of range, a package or a file is missing; nothing is loaded."""
        self.selection.check()
        check_choice("--backend", self.backend, tuple(WEIGHTS))
        check_estimator(self.backend, self.weights, boxes=self.boxes)
        check_installed("the index", "data", "pyarrow")

    def open(self) -> Callable[[Path], None]:
        estimator = open_estimator(self.backend, self.weights, boxes=self.boxes)
        return partial(annotate, job=self, estimator=estimator)


@dataclass
class _Image:
    content: bytes
    suffix: str
    pixels: np.ndarray  # (H, W, 3) uint8
    caption: str
    about: dict[str, Any]  # img2dataset's: url, sha256, ...
    people: np.ndarray = field(default_factory=lambda: np.zeros((0, 17, 3)))


def annotate(shard: Path, job: Annotation, estimator: PoseEstimator) -> None:
    """Annotate a shard: IN/NAME.tar -> OUT/NAME.tar, NAME.parquet and NAME_stats.json, all of them or none.

    Raises:
        ValueError: the shard cannot be opened, its output cannot be written, or pyarrow is not installed.
    """
    check_installed("the index", "data", "pyarrow")
    rows: dict[str, dict[str, Any]] = {}  # key -> the image's row of the index
    people_per_image, joints_seen = Counter(), np.zeros(len(JOINTS), int)
    with new_files(job.out, f"{shard.stem}{STATS}") as folder:
        samples, whole, left_out = scan_shard(shard)
        with tarfile.open(folder / shard.name, "w") as tar, open(shard, "rb") as file:
            for images in _batches(_readable(file, samples, rows)):
                _find_people(list(images.values()), estimator)
                for key, image in images.items():
                    reason = job.selection.against(image.caption, image.people, image.pixels.shape[:2])
                    rows[key] |= _row(image, reason)
                    if reason is None:
                        _add(tar, key, image)
                        seen = image.people[..., 2] >= SEEN
                        people_per_image[int(seen.any(-1).sum())] += 1
                        joints_seen += seen.sum(0)
        index = [*rows.values(), *({"key": as_text(name), "status": reason} for reason, name in left_out)]
        dropped = Counter(row["status"] for row in index)
        stats = {
            "settings": job.settings(shard),
            "read": len(index),
            "kept": dropped.pop(KEPT, 0),
            "dropped": dict(sorted(dropped.items())),
            "shards cut off or no tar": int(not whole),
            "images by number of people": dict(sorted(people_per_image.items())),
            "people by joint seen": dict(zip(JOINTS, joints_seen.tolist(), strict=True)),
            "download": _download_stats(shard),
        }
        _write_index(folder / f"{shard.stem}.parquet", index)
        write_marker(folder / f"{shard.stem}{STATS}", stats)


# ---- reading ---------------------------------------------------------------------------------------------------------


def _readable(file: BinaryIO, samples: Samples, rows: dict[str, dict[str, Any]]) -> Iterator[tuple[str, _Image]]:
    """Yield the readable images by key, and begin the row of every image; the others' rows have the reason."""
    for key, (places, texts) in samples.items():
        rows[key] = {"key": as_text(key)}
        image = _read(file, places, texts) if _is_safe(key) else "with an unsafe name"
        if isinstance(image, str):
            rows[key]["status"] = image
        else:
            yield key, image


def _is_safe(key: str) -> bool:
    """Whether a key can be the name of a tar's member: text, and a path that stays below the folder of the tar."""
    return key.isprintable() and "\\" not in key and not {"", ".."} & set(key.split("/"))


def _read(file: BinaryIO, places: Mapping[str, tuple[int, int]], texts: Mapping[str, bytes]) -> _Image | str:
    """Read the image of a sample; without one, return the reason."""
    if missing := [part for part in ("image", "txt") if part not in places]:
        return f"without {' and '.join(missing)}"
    offset, size = places["image"]
    file.seek(offset)
    content = file.read(size)
    try:
        pixels = read_image(io.BytesIO(content), "image")[0]
    except ValueError:
        return "that cannot be decoded"
    try:
        caption, about = texts["txt"].decode("utf-8-sig").strip(), dict(parse_json(texts.get("json", b"{}"), "json"))
        json.dumps(about)
        if not is_text(str(about.get("url"))):
            raise ValueError("url")
    except (ValueError, TypeError, RecursionError):
        return "without a readable caption and metadata"
    return _Image(content, _SUFFIXES.get(Image.open(io.BytesIO(content)).format, "jpg"), pixels, caption, about)


def _batches(images: Iterable[tuple[str, _Image]]) -> Iterator[dict[str, _Image]]:
    batch, pixels = {}, 0
    for key, image in images:
        batch[key] = image
        pixels += image.pixels.size // 3
        if pixels >= _PIXELS:
            yield batch
            batch, pixels = {}, 0
    if batch:
        yield batch


def _find_people(images: Sequence[_Image], estimator: PoseEstimator) -> None:
    """Fill in the people; images of one size go to the estimator together."""
    by_size = defaultdict(list)
    for image in images:
        by_size[image.pixels.shape].append(image)
    for alike in by_size.values():
        found = estimator(np.stack([image.pixels for image in alike]))
        for image, people in zip(alike, found, strict=True):
            # Selected by the numbers that are written: to a hundredth of a pixel, and of a confidence too.
            people = np.asarray(people, float).reshape(-1, len(JOINTS), 3).round(2)
            image.people = only_inside(people, image.pixels.shape[:2])


# ---- writing ---------------------------------------------------------------------------------------------------------


def _add(tar: tarfile.TarFile, key: str, image: _Image) -> None:
    height, width = image.pixels.shape[:2]
    people = [{"keypoints": person.tolist()} for person in image.people]
    label = image.about | {"width": width, "height": height, "people": people}
    for suffix, content in (
        (image.suffix, image.content), ("txt", image.caption.encode()), ("json", json.dumps(label).encode()),
    ):  # fmt: skip
        member = tarfile.TarInfo(f"{key}.{suffix}")  # of 1970 and without an owner: the same bytes on every machine
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def _row(image: _Image, reason: str | None) -> dict[str, Any]:
    """Row of an image in the index, but for its key."""
    height, width = image.pixels.shape[:2]
    seen, url = (image.people[..., 2] >= SEEN).sum(-1), image.about.get("url")
    return {
        "status": reason or KEPT, "url": url if isinstance(url, str) else None, "caption": image.caption,
        "width": width, "height": height, "people": int((seen > 0).sum()), "joints_seen": int(seen.max(initial=0)),
        "largest_area": largest_area(image.people, (height, width)),
    }  # fmt: skip


def _write_index(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows of all images as a parquet file."""
    import pyarrow
    from pyarrow import parquet

    text, number = pyarrow.string(), pyarrow.int32()
    kinds = {
        "key": text, "status": text, "url": text, "caption": text, "width": number, "height": number,
        "people": number, "joints_seen": number, "largest_area": pyarrow.float32(),
    }  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist(rows, pyarrow.schema(kinds)), path)


def _download_stats(shard: Path) -> dict[str, int]:
    """Numbers of links and of downloaded images, from the file that img2dataset left beside the shard."""
    try:
        content = read_json(shard.with_name(f"{shard.stem}{STATS}"))
        return {key: content[key] for key in ("count", "successes", "failed_to_download", "failed_to_resize")}
    except (ValueError, KeyError, TypeError):
        return {}


# ---- the command -----------------------------------------------------------------------------------------------------


def _flags() -> argparse.ArgumentParser:
    flags = parser(
        "laion_pose",
        __doc__,
        "python -m data_prep.laion_pose data/laion data/laion-pose --backend rtmlib",
        "sbatch --array=0-99 --wrap 'python -m data_prep.laion_pose data/laion data/laion-pose --runner slurm'",
    )
    usual = Selection()
    flags.add_argument("source", type=Path, metavar="IN", help="img2dataset's folder of .tar shards")
    flags.add_argument("out", type=Path, metavar="OUT", help="the folder to write; data.path of stage 1")
    flags.add_argument(
        "--backend", default="rtmlib", help="the pose estimator: rtmlib, mmpose, light, puppet (default: rtmlib)"
    )
    name = "or a name of `followyourpose download`"
    flags.add_argument("--weights", metavar="PATH", help=f"of the estimator, {name} (default: rtmo, of rtmlib)")
    flags.add_argument("--boxes", metavar="PATH", help=f"an .onnx that finds people for a top-down estimator, {name}")
    flags.add_argument(
        "--min-keypoints", type=float, default=usual.min_keypoints, metavar="SHARE",
        help=f"an image needs a person with more than this share of its joints seen (default: {usual.min_keypoints})",
    )  # fmt: skip
    flags.add_argument(
        "--people", type=int, nargs=2, default=usual.people, metavar=("FEWEST", "MOST"),
        help="people per image with at least one seen joint (default: {} {})".format(*usual.people),
    )  # fmt: skip
    flags.add_argument(
        "--area", type=float, nargs=2, default=usual.area, metavar=("LEAST", "MOST"),
        help="share of the image for the largest person's box (default: {} {})".format(*usual.area),
    )  # fmt: skip
    flags.add_argument(
        "--min-size", type=int, default=0, metavar="PIXELS", help="least smaller side of an image (default: 0)"
    )
    add_runner(flags)
    return flags


def main(arguments: Sequence[str] | None = None) -> None:
    """Annotate a folder of shards; `arguments` None: those of the process."""
    options = _flags().parse_args(arguments)
    shards = sorted(options.source.absolute().glob("*.tar"))  # absolute, since Ray's actors work in another folder
    if not shards:
        raise ValueError(f"{options.source}: holds no .tar shard, expected img2dataset's --output_format webdataset")
    if options.source.resolve() == options.out.resolve():
        raise ValueError(f"{options.out}: got the same folder for IN and OUT")
    selection = Selection(options.min_keypoints, tuple(options.people), tuple(options.area), options.min_size)
    job = Annotation(options.out.absolute(), options.backend, selection, options.weights, options.boxes)
    job.check()
    remove_orphans(job.out)
    run(job, shards, **runner_of(options))
    files = [options.out / f"{shard.stem}{STATS}" for shard in shards]
    print(f"{options.out}: {summary(add_up(file for file in files if file.is_file()))}")


if __name__ == "__main__":
    start("laion_pose", main)
