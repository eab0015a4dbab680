"""`followyourpose extract-pose`: a video of people -> the video of their skeletons, by any of four pose estimators.

The video is read twice, to find people and to draw them, a few frames at a time; memory holds keypoints only.
Letters: f frames, H W pixels.
"""

import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from followyourpose.common.checks import counted
from followyourpose.common.files import new_folder, slug
from followyourpose.config import GenerateConfig, PoseConfig
from followyourpose.data.images import WHITE
from followyourpose.data.video_io import probe, stream_frames, video_writer
from followyourpose.generation.skeletons import SkeletonInput
from followyourpose.pose.estimate import Networks, check_estimator, open_estimator
from followyourpose.pose.keypoints_file import ClipKeypoints, read_keypoints, write_keypoints
from followyourpose.pose.render import numbered, overlay, render_skeleton
from followyourpose.pose.track import check_smoothing, fill_gaps, largest, link, per_frame, smooth

_HINTS = {
    "puppet": "the embedded detector finds puppets only; ",
    "light": "light finds a few real people, large in the frame; ",
}
_MOST_IDS = 12  # of tracks, the longest, in the summary
FPS = 8.0  # frames per second of the files, where the source is a folder of images without a rate


def extract_pose(
    video: str | Path,
    output: str | Path,
    config: PoseConfig,
    frames: range | None = None,
    on_frames: Callable[[int, int], None] | None = None,
) -> ClipKeypoints:
    """Write skeleton.mp4, keypoints.json and, to check them, overlay.mp4 into a new folder; return the keypoints.

    The overlay has each person's track id, by which `people` of `generate` names people. Frame i of each is frame i of
    the video; where the video's frame rate varies, the files have its average.

    Args:
        video: a video, a gif, an image or a folder of them.
        output: the folder; it appears when all is done.
        frames: consecutive frames of the video; None: all.
        on_frames: called with the numbers of frames in which people were looked for, and of all; an exception in it
            ends the work.

    Raises:
        ValueError: the video, a setting, the backend or the folder cannot be used.
    """
    info = probe(video)
    check_pose(config)
    frames = range(info.num_frames) if frames is None else frames
    with new_folder(Path(output)) as folder:
        with tqdm(total=len(frames), desc="finding people", unit="frame") as bar:
            looked = 0

            def found(count: int) -> None:
                nonlocal looked
                looked += count
                bar.update(count)
                if on_frames is not None:
                    on_frames(looked, len(frames))

            chunks = stream_frames(video, frames, ground=WHITE)
            clip = find_people(chunks, config, (info.height, info.width), info.fps or FPS, found)
        write_keypoints(folder / "keypoints.json", clip)
        clip = read_keypoints(folder / "keypoints.json")  # to the same digits, so that the file drives as the video did
        draw_people(video, frames, clip, config, folder)
    print(summary(clip, config))
    return clip


def find_people(
    chunks: Iterable[np.ndarray], config: PoseConfig, size: tuple[int, int], fps: float, on_chunk: Callable[[int], Any]
) -> ClipKeypoints:
    """Return the people in a clip's frames, given as chunks (n, H, W, 3) uint8 RGB, tracked and smoothed.

    Args:
        size: height and width of the frames in pixels.
        on_chunk: gets the number of frames of each chunk whose people were found; an exception in it ends the search.

    Raises:
        ValueError: a setting or the backend cannot be used.
    """
    find = open_estimator(config.backend, *_networks(config), device=config.device)
    found: list[list[np.ndarray]] = []
    for chunk in chunks:
        found += find(chunk)
        on_chunk(len(chunk))
    people, ids = _tracked(found, config)
    return ClipKeypoints(size[1], size[0], fps, people, ids)


def check_pose(config: PoseConfig) -> None:
    """Raise a ValueError where a package or a file that the settings need is missing.

    Nothing is loaded; weights that come by themselves are downloaded.
    """
    check_smoothing(config.smooth)
    _networks(config)


def find_poses(config: GenerateConfig, sources: list[SkeletonInput], folder: Path) -> list[SkeletonInput]:
    """Find the people of raw videos; extract-pose's files go to the folder or, of several videos, to one each in it."""
    names = [f"{number:02d}-{slug(source.name)}" for number, source in enumerate(sources)]
    folders = [folder] if len(sources) == 1 else [folder / name for name in names]
    return [source.found(_people(config, source, each)) for source, each in zip(sources, folders, strict=True)]


def _people(config: GenerateConfig, source: SkeletonInput, folder: Path) -> ClipKeypoints:
    """Return the people in a raw video: those in the folder, where a run that is resumed has found them already."""
    if folder.exists():
        try:
            return read_keypoints(folder / "keypoints.json")
        except ValueError as error:
            print(f"{error}; so its people are looked for anew")
            shutil.rmtree(folder)
    pose = dataclasses.replace(config.pose, device=config.pose.device or config.device)
    return extract_pose(source.path, folder, pose, source.span)


def _networks(config: PoseConfig) -> Networks:
    return check_estimator(config.backend, config.weights, config.config, config.boxes)


def _tracked(found: list[list[np.ndarray]], config: PoseConfig) -> tuple[list[list[np.ndarray]], list[list[int]]]:
    """People found in each frame, (17, 3) each -> people kept in each frame, and the numbers of their tracks."""
    sure = config.min_confidence
    tracks = [fill_gaps(track, config.max_gap, sure) for track in link(found, config.max_gap, sure)]
    if config.people is not None:
        tracks = largest(tracks, config.people, sure)
    return per_frame([smooth(track, config.smooth, sure) for track in tracks], len(found), sure)


def draw_people(video: str | Path, frames: range, clip: ClipKeypoints, config: PoseConfig, folder: Path) -> None:
    """Write skeleton.mp4 and overlay.mp4 of the people in these frames of a video into a folder."""
    size, rest = (clip.height, clip.width), zip(clip.frames, clip.ids, strict=True)
    with (
        video_writer(folder / "skeleton.mp4", *size, clip.fps) as write_skeleton,
        video_writer(folder / "overlay.mp4", *size, clip.fps) as write_overlay,
        tqdm(total=len(frames), desc="drawing them", unit="frame") as bar,
    ):
        for chunk in stream_frames(video, frames, ground=WHITE):
            for frame in chunk:
                people, ids = next(rest)
                skeleton = render_skeleton(people, *size, config.min_confidence, style=config.style)
                write_skeleton(skeleton[None])
                write_overlay(numbered(overlay(frame, skeleton), people, ids, config.min_confidence)[None])
            bar.update(len(chunk))


def summary(clip: ClipKeypoints, config: PoseConfig) -> str:
    """Return one line: the people found, the frames without anybody, and track ids of several."""
    tracks, empty = Counter(number for each in clip.ids for number in each), sum(not each for each in clip.frames)
    frames = counted(len(clip.frames), "frame")
    if not tracks:
        why = _HINTS.get(config.backend, "")
        return f"nobody was found in {frames}, so the skeleton is black ({why}see --backend)"
    text = f"{len(tracks)} {'person' if len(tracks) == 1 else 'people'} in {frames}"
    text += f"; nobody in {empty} of them" if empty else ""
    if len(tracks) > 1:
        longest = sorted(tracks.most_common(_MOST_IDS))
        text += f"; track ids: {', '.join(f'{number} (in {count})' for number, count in longest)}"
        text += f" and {len(tracks) - _MOST_IDS} of fewer frames" if len(tracks) > _MOST_IDS else ""
    return text
