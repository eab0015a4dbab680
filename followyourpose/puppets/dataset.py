"""The puppet world on disk, in the formats of stage 1 (LAION-Pose) and stage 2 (HD-VILA)."""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import imageio
import numpy as np
from PIL import Image
from tqdm import tqdm

from followyourpose.common.files import new_folder
from followyourpose.puppets.styles import STYLES
from followyourpose.puppets.world import SPLITS, render_scene, sample_scene

IMAGES_PER_SHARD = 1000
FRAMES_PER_PROCESS = 500  # rendered in about a second, the time in which a process starts
CLIP_FPS = 8


def write_dataset(
    out: str | Path, images: int = 0, clips: int = 0, seed: int = 0, size: int = 128, clip_frames: int = 24,
    split: str = "training", style: str | None = None,
) -> Path:  # fmt: skip
    """Write `out`/images (tar shards with keypoints) and `out`/clips (captioned videos without poses).

    The same arguments write the same files. A shard holds, per image, KEY.jpg, KEY.txt (the caption) and KEY.json:
    {"width", "height", "people": [{"keypoints": [[x, y, confidence] * 17]}]}, in pixels. The clips' manifest.jsonl has
    one {"video", "caption"} per line.

    Args:
        images, clips: number of each; 0 leaves that folder out.
        size: height and width in pixels.
        clip_frames: frames per clip.
        split: pairs of a character and a place, and motions: training's, the held-out ones, or all of them.
        style: a name in STYLES, of the drawing and in the captions; None: the world as it is.

    Raises:
        ValueError: both numbers are 0, one is out of range, or a folder is there already (it is left untouched).
    """
    out = Path(out)
    if images < 0 or clips < 0 or images + clips == 0:
        raise ValueError(f"got --images {images} --clips {clips}, expected at least one of them above 0")
    if size < 16 or size % 2 or clip_frames < 1:
        raise ValueError(f"got size {size} and clip_frames {clip_frames}, expected an even size >= 16 and a frame")
    for key, value, known in (("split", split, SPLITS), ("style", style, (None, *STYLES))):
        if value not in known:
            raise ValueError(f"{key}: got {value!r}, expected one of {', '.join(filter(None, known))}")
    draw = partial(_draw, seed=seed, size=size, split=split, style=style)
    with ExitStack() as stack:
        folders = {
            kind: stack.enter_context(new_folder(out / kind)) for kind, n in (("images", images), ("clips", clips)) if n
        }
        if images:
            starts = range(0, images, IMAGES_PER_SHARD)
            shards = [range(start, min(start + IMAGES_PER_SHARD, images)) for start in starts]
            write = partial(_write_shard, folders["images"], size, draw)
            list(_in_processes(write, shards, "image shards", images))
        if clips:
            write = partial(_write_clip, folders["clips"], clip_frames, draw)
            captions = _in_processes(write, range(clips), "clips", clips * clip_frames)
            rows = [{"video": f"{index:06d}.mp4", "caption": caption} for index, caption in enumerate(captions)]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folders["clips"] / "manifest.jsonl").write_text(lines, encoding="utf-8")
    return out


def _in_processes(job: Callable, items: Sequence, label: str, frames: int) -> Iterator:
    """Do a job for each item, in processes where there are frames enough to be worth their start."""
    processes = min(os.cpu_count() or 1, len(items), frames // FRAMES_PER_PROCESS)
    if processes < 2:
        yield from tqdm(map(job, items), label, len(items))
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        yield from tqdm(pool.map(job, items, chunksize=1 if len(items) < 64 else 8), label, len(items))


def _draw(
    kind: int, index: int, frames: int, seed: int, size: int, split: str, style: str | None
) -> tuple[np.ndarray, np.ndarray, str]:
    """Render scene `index`: frames, keypoints, caption; images (kind 0) and clips (kind 1) are different scenes."""
    scene = sample_scene(np.random.default_rng((seed, kind, index)), split)
    video, keypoints = render_scene(scene, frames, size, size)
    if style is None:
        return video, keypoints, scene.caption
    return STYLES[style].draw(video), keypoints, scene.caption + STYLES[style].suffix


def _write_shard(folder: Path, size: int, draw: Callable, indices: range) -> None:
    with tarfile.open(folder / f"{indices.start // IMAGES_PER_SHARD:05d}.tar", "w") as tar:
        for index in indices:
            frames, keypoints, caption = draw(0, index, 1)
            image = io.BytesIO()
            Image.fromarray(frames[0]).save(image, "JPEG", quality=95, subsampling=0)
            people = [{"keypoints": person.round(2).tolist()} for person in keypoints[0]]
            label = {"width": size, "height": size, "people": people}
            for suffix, content in (
                ("jpg", image.getvalue()), ("txt", caption.encode()), ("json", json.dumps(label).encode()),
            ):  # fmt: skip
                member = tarfile.TarInfo(f"{index:08d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _write_clip(folder: Path, clip_frames: int, draw: Callable, index: int) -> str:
    frames, _, caption = draw(1, index, clip_frames)
    # Full colour resolution and high quality: at this size, halved colour would blur every costume.
    options = ["-crf", "8", "-preset", "veryfast"]
    with imageio.get_writer(
        folder / f"{index:06d}.mp4", fps=CLIP_FPS, codec="libx264", pixelformat="yuv444p", macro_block_size=None,
        output_params=options,
    ) as writer:  # fmt: skip
        for frame in frames:
            writer.append_data(frame)
    return caption
